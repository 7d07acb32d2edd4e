"""Figures with captions and alt text; no module here knows a model or trains one."""

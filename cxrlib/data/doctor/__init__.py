"""What is wrong with a data set, counted and named."""

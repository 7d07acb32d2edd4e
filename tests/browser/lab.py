"""JupyterLab in a real browser: a server on a free port of this machine, the system's Chromium, a notebook in it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
UPLOADS = '{"websocket_max_message_size":268435456}'  # bytes, as make lab has it: large enough for a DICOM file
_START = 90  # seconds that a busy machine may take


def chromium() -> str | None:
    """The browser of this system: CXR_CHROMIUM, or the first known name on the path; None where there is none."""
    return os.environ.get("CXR_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def jupyter_lab(root: Path, home: Path):
    """A JupyterLab over the folder `root`, stopped at the end; its settings lie in `home`. Gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    places = {name: str(home / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    places |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    options = ["--ip=127.0.0.1", f"--port={port}", "--no-browser", "--allow-root", "--expose-app-in-browser",
               f"--ServerApp.root_dir={root}", f"--ServerApp.tornado_settings={UPLOADS}",
               "--IdentityProvider.token=", "--ServerApp.password=",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    quietly = {"TQDM_DISABLE": "1", "JUPYTER_PREFER_ENV_PATH": "1"}  # the kernel of this environment
    quiet = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True, exist_ok=True)
    quiet.write_text('{"fetchNews": "false"}')  # no question about news over the page
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], stdout=log, stderr=log, cwd=root,
                                  env=os.environ | places | quietly)  # fmt: skip
        try:
            _wait_for(f"{address}/api/status", server, home / "server.log")
            yield address
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


@contextmanager
def browser(executable: str):
    """A playwright browser; nothing is downloaded."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        try:
            yield chrome
        finally:
            chrome.close()


def open_notebook(page, address: str, path: str) -> None:
    """Open a notebook in JupyterLab's single-document mode and wait until its kernel has answered."""
    page.goto(f"{address}/doc/tree/{path}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=1000 * _START)
    page.evaluate(
        """async () => {
            const context = jupyterapp.shell.currentWidget.sessionContext;
            await context.ready;
            await context.session.kernel.info;
            while (context.session.kernel.status !== 'idle') await new Promise(done => setTimeout(done, 100));
        }"""
    )


def restart_and_run_all(page, path: Path, timeout: float) -> list[str]:
    """Restart the kernel, run every cell, save; returns the errors in the outputs ("cell 4: NameError: ..."), if any.

    path: the notebook's file, which is read after it was saved; timeout: seconds for all cells.
    """
    page.evaluate(
        """() => {
            window.outcome = null;
            jupyterapp.commands.execute('runmenu:restart-and-run-all')
                .then(() => { window.outcome = 'ran'; }, error => { window.outcome = String(error); });
        }"""
    )
    page.locator(".jp-Dialog button.jp-mod-accept").click()  # "Restart"
    page.wait_for_function("window.outcome !== null", timeout=1000 * timeout)
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    return errors_in(nbformat.read(path, as_version=4))


def shut_down(page) -> None:
    """End the kernel of the notebook that is open, so that its memory is free for the next."""
    page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")


def errors_in(notebook) -> list[str]:
    """What went wrong in an executed notebook: its errors, and the cells that did not run."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source]
    wrong = [f"cell {i} did not run" for i, cell in enumerate(cells, 1) if cell.execution_count is None]
    return wrong + [
        f"cell {i}: {output.ename}: {output.evalue}"
        for i, cell in enumerate(cells, 1)
        for output in cell.outputs
        if output.output_type == "error"
    ]


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    def answers() -> bool:
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended with {server.returncode}: {log.read_text()[-800:]}")
        try:
            return urllib.request.urlopen(address, timeout=2).status == 200
        except OSError:
            return False

    end = time.monotonic() + _START
    while not answers():
        if time.monotonic() > end:
            raise TimeoutError(f"JupyterLab did not answer within {_START} s: {log.read_text()[-800:]}")
        time.sleep(0.2)

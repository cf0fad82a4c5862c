"""Printing a report as PDF by a browser of the Chromium family."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from srs_ray.errors import SrsRayError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
VARIABLE = "SRS_RAY_BROWSER"
_SECONDS = 180


def find_browser() -> str:
    """The browser that prints: SRS_RAY_BROWSER, else the first of BROWSERS on PATH. SrsRayError where there is none."""
    named = os.environ.get(VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise SrsRayError(f"{VARIABLE} is {named!r}, which is no program: give the path of a Chromium-like browser")
        return found
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SrsRayError(
            f"a PDF needs a browser, and none of {', '.join(BROWSERS)} is on PATH: install one, name it by {VARIABLE}, "
            "or write the report as .html and print that"
        )
    return found


def print_pdf(page: Path, output: Path, browser: str) -> None:
    """Prints an HTML file to a PDF file, without network. SrsRayError where the browser makes none."""
    with tempfile.TemporaryDirectory(prefix="srs-ray-") as profile:
        made = Path(profile) / "report.pdf"
        command = [browser, *headless_options(Path(profile)), "--no-pdf-header-footer"]
        command += [f"--print-to-pdf={made}", page.absolute().as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SrsRayError(f"{browser} could not print the report ({error}); write it as .html instead") from error
        if done.returncode or not made.is_file():
            said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise SrsRayError(f"{browser} made no PDF ({said[0]}); write the report as .html and print that")
        try:
            shutil.copyfile(made, output)
        except OSError as error:
            raise SrsRayError(f"cannot write {output} ({error.strerror or error}); choose another output") from error


def headless_options(profile: Path) -> list[str]:
    """What runs a browser once, without a window, a network, or a trace in the user's own profile."""
    options = [
        "--headless",
        "--disable-gpu",
        "--disable-extensions",
        "--disable-background-networking",
        "--no-first-run",
        "--proxy-server=127.0.0.1:9",  # nobody listens there: nothing is fetched
        f"--user-data-dir={profile / 'profile'}",
    ]
    return [*options, "--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else options

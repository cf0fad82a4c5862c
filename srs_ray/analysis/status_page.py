"""The state of runs as a page that renews itself, served on this machine alone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from jinja2 import Environment

from srs_ray.analysis.watch import HEADINGS, Look, look_again

LOOPBACK = "127.0.0.1"
OLD_SECONDS = 600.0  # of the newest row of a run with pending points, from which on its age is marked

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="{{ every }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fdfdfc; --line: #dcdcd8; --dim: #63635e; --bar: #0072b2;
  --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e3; --paper: #191a1b; --line: #3a3b3d; --dim: #a3a39d;
  --bar: #56b4e9; --bad: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .3rem; overflow-wrap: anywhere; }
p { margin: .2rem 0; overflow-wrap: anywhere; }
.dim { color: var(--dim); } .bad { color: var(--bad); font-weight: 600; }
.bar { background: var(--line); height: .6rem; border-radius: .3rem; margin: .5rem 0; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--bar); }
table { border-collapse: collapse; margin: .6rem 0; } .wide { overflow-x: auto; }
.wide td, .wide th { white-space: nowrap; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  font-variant-numeric: tabular-nums; }
th { color: var(--dim); font-weight: 500; } pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
</style>
</head>
<body>
<h1>srs-ray status</h1>
<p class="dim">Read at {{ read_at }}; the page renews itself every {{ every }} s.</p>
{% if looks | length > 1 %}
<div class="wide"><table>
<tr>{% for heading in headings %}<th>{{ heading }}</th>{% endfor %}</tr>
{% for look in looks %}<tr>{% for cell in look.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% endif %}
{% for look in looks %}
<section>
<h2>{{ look.name }}</h2>
{% for note in look.notes %}<p class="bad" role="alert">{{ note }}</p>
{% endfor %}
{% if look.state %}
{% set state = look.state %}
<p>{{ state.setting }} on {{ state.data }}</p>
<div class="bar" role="img" aria-label="{{ state.done }} of {{ state.asked }} points done">
<i style="width: {{ "%.1f" | format(100 * state.done / state.asked if state.asked else 0) }}%"></i></div>
<p><b>{{ state.done }}</b> of {{ state.asked }} points done, {{ state.in_error }} in error,
{{ state.pending }} pending</p>
<p>{{ look.cells[3] or "no" }} points an hour
{%- if look.cells[4] %}, {{ look.cells[4] }} in the last 5 minutes{% endif %};
{{ state.workers }} workers seen lately; to go: {{ look.cells[5] }}</p>
{% if look.cells[7] %}<p{% if state.pending and state.age_seconds > old %} class="bad"{% endif %}>newest row:
{{ look.cells[7] }}</p>{% endif %}
<table><tr><th>radius</th><th>certified accuracy (%)</th><th>95 % interval</th></tr>
{% for at in look.accuracies %}<tr><td>{{ at.radius_label }}</td>
<td>{{ at.percent() }}</td>
<td>{{ "%.1f" | format(100 * at.low) }} to {{ "%.1f" | format(100 * at.high) }}</td></tr>
{% endfor %}</table>
<pre class="dim">{{ look.text }}</pre>
{% endif %}
</section>
{% endfor %}
</body>
</html>
"""
_ENVIRONMENT = Environment(autoescape=True, trim_blocks=True)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def status_page(looks: Sequence[Look], every: int) -> str:
    """The page of these runs, which a browser loads again every so many seconds; all text in it is escaped."""
    done = sum(look.state["done"] for look in looks if look.state)
    asked = sum(look.state["asked"] for look in looks if look.state)
    return _ENVIRONMENT.from_string(_TEMPLATE).render(
        looks=looks,
        headings=HEADINGS,
        every=every,
        old=OLD_SECONDS,
        title=f"{done}/{asked} points: srs-ray status",
        read_at=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    )


class _Watch:
    """The runs, read anew once what was read is older than half of the seconds between two looks."""

    def __init__(self, looks: Sequence[Look], every: float) -> None:
        self._looks, self._every = list(looks), every
        self._read_at = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self) -> list[Look]:
        with self._lock:
            if time.monotonic() - self._read_at >= self._every / 2:
                self._looks = look_again(self._looks)
                self._read_at = time.monotonic()
            return self._looks


def status_server(looks: Sequence[Look], port: int, every: float) -> ThreadingHTTPServer:
    """A server on 127.0.0.1, with the page at `/` and the states as JSON at `/status.json`; port 0: any free one.

    It answers GET alone, and only where the host that is asked for is this machine, so that no page from elsewhere
    reads it through a name of its own. It reads the runs and no other file. Raises OSError where the port is taken.
    """
    watch = _Watch(looks, every)

    class Handler(_Handler):
        def content(self) -> tuple[str, str] | None:
            return _content(self.path, watch, max(1, round(every)))

    return ThreadingHTTPServer((LOOPBACK, port), Handler)


def _content(path: str, watch: Callable[[], list[Look]], every: int) -> tuple[str, str] | None:
    if path == "/":
        return "text/html", status_page(watch(), every)
    if path == "/status.json":
        states = [{"run": look.run, "fault": look.fault, "state": look.state} for look in watch()]
        return "application/json", json.dumps(states, indent=2)
    return None


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "srs-ray", ""
    timeout = 10  # seconds, of a client that sends nothing

    def content(self) -> tuple[str, str] | None:
        """The type and text at the path that is asked for; None: nothing is there."""
        raise NotImplementedError

    def do_GET(self) -> None:
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        if host not in (LOOPBACK, "localhost"):
            self._send(403, "text/plain", "asked for under another name than 127.0.0.1 or localhost\n")
            return
        found = self.content()
        if found is None:
            self._send(404, "text/plain", "there are / and /status.json\n")
        else:
            self._send(200, *found)

    def _send(self, code: int, kind: str, text: str) -> None:
        body = text.encode("utf-8", "backslashreplace")
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""

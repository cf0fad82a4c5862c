"""The report of runs: one HTML file, or a PDF of it, to hand over."""

from srs_ray.analysis.report.contents import Options, Report, collect
from srs_ray.analysis.report.pdf import find_browser, print_pdf
from srs_ray.analysis.report.rendering import render, write_report

__all__ = ["Options", "Report", "collect", "find_browser", "print_pdf", "render", "write_report"]

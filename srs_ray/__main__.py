"""`python -m srs_ray` is `srs-ray`."""

from __future__ import annotations

from srs_ray.cli import main

if __name__ == "__main__":
    main()

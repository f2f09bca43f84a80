"""`pcd`: train a head, generate with it, evaluate it, convert a released one, look at one."""

from pcircuits_diffusion.cli.app import app

__all__ = ["app"]

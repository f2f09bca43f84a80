"""`python -m pcircuits_diffusion`, and what the console script `pcd` calls."""

import sys


def main() -> None:
    """Runs the command line, or says what it needs."""
    try:
        from pcircuits_diffusion.cli import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f"pcd needs {error.name}: pip install 'pcircuits[cli]'")
    app(prog_name="pcd")


if __name__ == "__main__":
    main()

"""`python -m pcircuits_diffusion.harness`: the lm-evaluation-harness's own command, which knows `coupled_diffusion`."""

from lm_eval.__main__ import cli_evaluate

if __name__ == "__main__":  # python has imported the package, and with it the model, before this module
    cli_evaluate()

"""What a coupled head does, shown on the documentation of the Python that runs it."""

"""The five examples of Flask-Worker, and the two contrasts, as flows and tasks."""

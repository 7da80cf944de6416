"""Programs to read and to run: `agent.py` is a live agent, `demo.py` the whole story in a minute."""

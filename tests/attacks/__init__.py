"""What a trusted peer may try that has gone bad, against nodes that are processes of their own. Each attack is refused,
counted and shown; nothing is lost elsewhere, and no honest link is closed. `docs/security.md` says who is meant."""

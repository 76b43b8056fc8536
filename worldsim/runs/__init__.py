"""A run folder: its lock, the request it is bound to, and the ledger of what is finished."""

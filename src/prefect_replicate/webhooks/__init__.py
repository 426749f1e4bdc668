"""Replicate calling us: signed webhooks, received and put in the mailbox of a flow run."""

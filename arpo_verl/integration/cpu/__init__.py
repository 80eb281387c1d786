"""What verl needs on a machine without an accelerator."""

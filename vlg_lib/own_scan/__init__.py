"""What a person does with a scan: check it, look at it, label it."""

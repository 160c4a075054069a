"""The whole method from a profile: resumable, each artefact made once."""

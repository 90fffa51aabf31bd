"""The personal order confirmation: written by a language model if one is set, by a template otherwise or when
it fails."""

"""Whether a language model's text may leave: the order's facts and no promise. `fact_check.fact_check` is the whole of it."""

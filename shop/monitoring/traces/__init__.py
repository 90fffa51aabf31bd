"""OpenTelemetry traces, if they are wanted: one for each order, made of its journal."""

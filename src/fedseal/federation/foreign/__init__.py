"""Federations of other frameworks than ours: what their servers could read, recorded for an audit."""

"""The symbolic language of losses: primitives, expressions, genetic operators, printed forms."""

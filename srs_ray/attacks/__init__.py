"""Attacks on certified points: adversarial images within l2 balls, each checked by fresh noise."""

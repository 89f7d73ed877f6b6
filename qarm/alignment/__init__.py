"""Alignment: the item encoder is fine-tuned on behaviour's item pairs by a contrastive loss."""

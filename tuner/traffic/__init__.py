"""Which traffic a judgement needs: long enough, with warm caches, with the shared prefixes that last."""

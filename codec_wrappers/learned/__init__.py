"""Learned codecs (the extra ``[learned]``); torch and CompressAI are imported on use only."""

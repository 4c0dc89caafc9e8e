//! Every committed event arrives, and nothing else.

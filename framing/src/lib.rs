//! Sans-IO codecs of the Proscenium networking engine.
#![forbid(unsafe_code)]

//! The real Ironic beside ours.

//! Accounts and locations of Swift, and what is compared with Glance.

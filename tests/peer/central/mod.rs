//! The central database, on real MariaDB and PostgreSQL servers and in SQLite files: each case is a function
//! that takes the kind of database, and below it is a test for each kind.

mod beside_glance;
mod choose;
mod clean;
mod connections;
mod entries;
mod fleet;
mod grants;
mod index;
mod limits;
mod settings;
mod tls;
mod unavailable;

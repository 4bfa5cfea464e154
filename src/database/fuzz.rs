//! URLs of databases with any bytes.

use super::url::Address;
use crate::fuzzing::{fuzz, kind};

#[test]
fn database_urls_of_any_bytes() {
    fuzz("database-url", |bytes| {
        let url = String::from_utf8_lossy(bytes);
        let _ = Address::has_password(&url);
        let address = Address::parse(&url);
        if let Ok(address) = &address {
            let _ = (address.to_string(), address.without_credentials(&url));
        }
        kind(&address)
    });
}

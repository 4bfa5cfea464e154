//! Which login an object is read with, and how often Keystone is asked.
//!
//! Keystone and Swift are a double on one socket of this process. It knows one password and one application
//! credential.

use std::io::{Read as _, Write as _};

use serde_json::json;

use crate::net::double::{Double, impatient};
use crate::source::tests::{image, location, stores};
use crate::source::{Body, Opened, Stores};

/// The id of the image that is read, which Glance gives to its object.
const OWN: &str = "1c8c0a3e-7a0e-4c9a-8d5c-3b1f6d2e9a10";
const OTHER: &str = "2c8c0a3e-7a0e-4c9a-8d5c-3b1f6d2e9a10";

/// Returns a cloud whose Keystone accepts the key `new-key`, and whose Swift has every object.
fn cloud() -> Double {
    Double::new(|_, request, stream| {
        let is_login = request.starts_with("POST /v3/auth/tokens ");
        let (status, headers, body) = if is_login && request.contains("new-key") {
            let times = json!({"issued_at": "2026-01-01T00:00:00.000000Z",
                               "expires_at": "2026-01-01T01:00:00.000000Z", "catalog": []});
            ("201 Created", "X-Subject-Token: the-token\r\n", json!({"token": times}).to_string())
        } else if is_login {
            let error = json!({"code": 401, "message": "The request requires authentication."});
            ("401 No", "", json!({"error": error}).to_string())
        } else if request.contains("/gone/") {
            ("404 No", "", String::new())
        } else {
            ("200 OK", "ETag: v1\r\n", "image".to_owned())
        };
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        let _ = stream.write_all(answer.as_bytes());
    })
}

fn logins(cloud: &Double) -> usize {
    cloud.heads().iter().filter(|head| head.starts_with("POST /v3/auth/tokens ")).count()
}

/// Returns a configuration with this login for the store's own account.
fn config(cloud: &Double, login: &str) -> String {
    format!(
        "[glance_store]\nstores = swift\nswift_store_auth_address = {}\nswift_store_endpoint = {}\n{login}\n",
        cloud.url("/v3"),
        cloud.url("/v1/KEY_p")
    )
}

const OF_USER: &str = "swift_store_user = service:glance\nswift_store_key = new-key";
const OF_CREDENTIAL: &str =
    "swift_store_application_credential_id = a1\nswift_store_application_credential_secret = new-key";

/// Returns a location at the double with these credentials and this container and object.
fn at(cloud: &Double, credentials: &str, object: &str) -> String {
    let place = cloud.url("/v3");
    format!("swift+http://{credentials}{}/{object}", place.strip_prefix("http://").unwrap())
}

/// Returns what comes of opening a location, or all that is said about the failure.
fn open(stores: &Stores, url: &str) -> Result<Opened, String> {
    let source = stores.sources(image(), &[location(url, None)]).remove(0);
    let opened = source.map_err(|refused| refused.to_string())?.open();
    opened.map_err(|error| format!("{error:#}"))
}

/// Returns the content of a location, or all that is said about the failure.
fn read(stores: &Stores, url: &str) -> Result<String, String> {
    let opened = open(stores, url)?;
    let Body::Stream(mut stream) = opened.body else { panic!("no stream") };
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// A user who may add locations must not get at objects through the store's own account: it takes the place
/// of an old key of the same user only, and for the image's own object only.
#[test]
fn the_own_account_takes_the_place_of_nobody_else() {
    let cases = [
        (OF_USER, "service%3Aglance:old@", OWN, true),
        (OF_USER, "demo%3Aeve:old@", OWN, false),
        (OF_USER, "demo%3Aglance:old@", OWN, false),
        (OF_USER, "service%3Aeve:old@", OWN, false),
        (OF_USER, "service%3Aglance:old@", OTHER, false),
        (OF_CREDENTIAL, "service%3Aglance:old@", OWN, false),
    ];
    let found = cases.map(|(login, credentials, object, _)| {
        let cloud = cloud();
        let stores = stores(&config(&cloud, login), &impatient()).unwrap();
        read(&stores, &at(&cloud, credentials, &format!("images/{object}"))).is_ok()
    });
    assert_eq!(found, cases.map(|(.., is_read)| is_read));
}

/// A location without a login is one that Glance wrote with an application credential, if it is at the
/// store's own Keystone and the object is the image's own.
#[test]
fn an_application_credential_reads_what_glance_wrote_with_it() {
    let cloud = cloud();
    let elsewhere = at(&cloud, "", &format!("images/{OWN}")).replace("/v3/", "/v1/KEY_p/");
    let cases = [
        (OF_CREDENTIAL, at(&cloud, "", &format!("images/{OWN}")), true),
        (OF_CREDENTIAL, at(&cloud, "", &format!("images/{OTHER}")), false),
        (OF_CREDENTIAL, elsewhere, false),
        (OF_USER, at(&cloud, "", &format!("images/{OWN}")), false),
    ];
    let found = cases.each_ref().map(|(login, url, _)| {
        let stores = stores(&config(&cloud, login), &impatient()).unwrap();
        read(&stores, url).is_ok()
    });
    assert_eq!(found, cases.map(|(.., is_read)| is_read));
}

/// A login that is refused is tried once in a run, by whichever store: Keystone may lock its user out.
#[test]
fn a_refused_login_is_tried_once() {
    let cloud = cloud();
    let section = config(&cloud, "").replace("[glance_store]\nstores = swift\n", "");
    let text = format!("[DEFAULT]\nenabled_backends = a:swift, b:swift\n[a]\n{section}[b]\n{section}");
    let stores = stores(&text, &impatient()).unwrap();
    let url = at(&cloud, "service%3Aglance:old@", &format!("images/{OWN}"));
    for store in ["a", "b", "a", "b"] {
        let source = stores.sources(image(), &[location(&url, Some(store))]).remove(0).unwrap();
        let Err(error) = source.open() else { panic!("opened") };
        assert!(format!("{error:#}").contains("refuses the user 'glance'"), "{error:#}");
    }
    assert_eq!(logins(&cloud), 1);
    // The key is another one.
    let url = at(&cloud, "service%3Aglance:older@", &format!("images/{OWN}"));
    read(&stores, &url).unwrap_err();
    assert_eq!(logins(&cloud), 2);
}

/// The operator learns that an old key is in use, and of both keys if neither helps.
#[test]
fn an_old_key_is_told() {
    let cloud = cloud();
    let refusal = format!(
        "Keystone at {} refuses the user 'glance' (domain 'default') for the project 'service' (domain \
         'default'): the password is wrong, there is no such user or project, or the user has no role there \
         (it answers 401: The request requires authentication.)",
        cloud.url("/v3/auth/tokens")
    );
    let with = |login: &str| stores(&config(&cloud, login), &impatient()).unwrap();
    let url = |container: &str| at(&cloud, "service%3Aglance:old@", &format!("{container}/{OWN}"));
    let warning = open(&with(OF_USER), &url("images")).unwrap().warning.unwrap();
    assert_eq!(
        warning,
        format!(
            "images are read with the key of [glance_store], because the key in their locations is another \
             one and is refused: {refusal}"
        )
    );
    let good = at(&cloud, "service%3Aglance:new-key@", &format!("images/{OWN}"));
    assert_eq!(open(&with(OF_USER), &good).unwrap().warning, None);

    let told =
        |second: &str| format!("{refusal}; with the key of [glance_store], which is another one: {second}");
    let said = open(&with(&OF_USER.replace("new-key", "another")), &url("images")).map(drop).unwrap_err();
    assert_eq!(said, told(&refusal));
    let said = open(&with(OF_USER), &url("gone")).map(drop).unwrap_err();
    let place = cloud.url(&format!("/v1/KEY_p/gone/{OWN}"));
    let second =
        format!("{place} answers 404 (it is not there: are the account, the region and the endpoint right?)");
    assert_eq!(said, told(&second));
}

/// An endpoint that cannot be used is the trouble of the images that need it.
#[test]
fn a_bad_endpoint_fails_its_own_images() {
    let cloud = cloud();
    let with = |endpoint: &str| {
        let text = config(&cloud, OF_USER).replace(&cloud.url("/v1/KEY_p"), endpoint);
        stores(&text, &impatient()).unwrap()
    };
    let url = format!("swift+config://ref1/gone/{OWN}");
    let said = open(&with("h:8080/v1"), &url).map(drop).unwrap_err();
    let expected = "cannot use swift_store_endpoint: it is not a URL that begins with http:// or https://";
    assert!(said.ends_with(expected), "{said}");
    let said = open(&with(&cloud.url("/v1")), &url).map(drop).unwrap_err();
    let expected =
        "answers 404 (does swift_store_endpoint lack the account at its end, as in /v1/AUTH_PROJECT?)";
    assert!(said.ends_with(expected), "{said}");
}

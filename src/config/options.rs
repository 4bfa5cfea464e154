//! The options that this tool knows, with oslo's types and defaults.
//!
//! Listed are the options that are read somewhere and those that their values may name with `$`. The defaults
//! are those of Glance and Ironic unless a comment says otherwise. An option in a section that the operator
//! names (a store) is made from a constant: `Opt { group: &store, ..RBD_STORE_POOL }`.

/// One option: its section, its name and the values it accepts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opt<'a> {
    pub(crate) group: &'a str,
    pub(crate) name: &'a str,
    /// Older names in the same group. They are accepted in files only, not in the environment.
    pub(crate) older_names: &'a [&'a str],
    pub(crate) kind: ValueKind<'a>,
    /// In the notation of a file.
    pub(crate) default: Option<&'a str>,
    /// True if the value must not be shown, not even if it is invalid.
    pub(crate) secret: bool,
}

/// The values that an option accepts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ValueKind<'a> {
    Text,
    /// One of these, in upper or lower case.
    Choice(&'a [&'a str]),
    Boolean,
    /// A whole number of at least `min`.
    Integer {
        min: i64,
    },
    /// Items separated by commas.
    List,
    /// `key:value` items separated by commas.
    Dictionary,
}

impl<'a> Opt<'a> {
    pub(crate) const fn new(group: &'a str, name: &'a str, kind: ValueKind<'a>) -> Self {
        Self { group, name, older_names: &[], kind, default: None, secret: false }
    }

    pub(crate) const fn or(self, default: &'a str) -> Self {
        Self { default: Some(default), ..self }
    }

    pub(crate) const fn once(self, older_names: &'a [&'a str]) -> Self {
        Self { older_names, ..self }
    }

    pub(crate) const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }
}

const fn default(name: &'static str, kind: ValueKind<'static>) -> Opt<'static> {
    Opt::new("DEFAULT", name, kind)
}

/// Returns an option of Keystone's middleware. Those of the login may be in another section.
const fn authtoken(name: &'static str, kind: ValueKind<'static>) -> Opt<'static> {
    Opt::new("keystone_authtoken", name, kind)
}

/// Returns an option of a store; the section may have another name.
const fn store(name: &'static str, kind: ValueKind<'static>) -> Opt<'static> {
    Opt::new("glance_store", name, kind)
}

/// Returns an option of the service.
const fn service(name: &'static str, kind: ValueKind<'static>) -> Opt<'static> {
    Opt::new("cache_api", name, kind)
}

const fn policy(name: &'static str, kind: ValueKind<'static>) -> Opt<'static> {
    Opt::new("oslo_policy", name, kind)
}

const SIZE: ValueKind<'static> = ValueKind::Integer { min: 0 };
const NUMBER: ValueKind<'static> = ValueKind::Integer { min: i64::MIN };

/// The options of a section `[image_cache:NAME]`, which declares a cache. They are read where caches are
/// declared.
pub(super) const OF_DECLARATIONS: &[&str] = &["directory", "kind", "size", "age", "priority"];

/// Declares constants and, from the same list, a table of all of them.
macro_rules! options {
    ($($(#[$doc:meta])* $name:ident = $opt:expr;)*) => {
        $($(#[$doc])* pub(crate) const $name: Opt<'static> = $opt;)*
        pub(crate) const KNOWN: &[Opt<'static>] = &[$($name),*];
    };
}

options! {
    IMAGE_CACHE_DIR = default("image_cache_dir", ValueKind::Text);
    /// Glance's default is the first of the three; the origin shows if it was set at all.
    IMAGE_CACHE_DRIVER =
        default("image_cache_driver", ValueKind::Choice(&["centralized_db", "sqlite", "xattr"]))
            .or("centralized_db");
    /// In bytes.
    IMAGE_CACHE_MAX_SIZE = default("image_cache_max_size", SIZE).or("10737418240");
    /// In seconds.
    IMAGE_CACHE_STALL_TIME = default("image_cache_stall_time", SIZE).or("86400");
    IMAGE_CACHE_SQLITE_DB = default("image_cache_sqlite_db", ValueKind::Text).or("cache.db");
    WORKER_SELF_REFERENCE_URL = default("worker_self_reference_url", ValueKind::Text);
    /// Names of sections that describe external sources of settings; not supported.
    CONFIG_SOURCE = default("config_source", ValueKind::List);
    /// The ids and types of all stores.
    ENABLED_BACKENDS = default("enabled_backends", ValueKind::Dictionary);
    METADATA_ENCRYPTION_KEY = default("metadata_encryption_key", ValueKind::Text).secret();
    NODE_STAGING_URI = default("node_staging_uri", ValueKind::Text).or("file:///tmp/staging/");

    LOCK_PATH = Opt::new("oslo_concurrency", "lock_path", ValueKind::Text);

    DATABASE_CONNECTION = Opt::new("database", "connection", ValueKind::Text).secret();
    /// -1 stands for no limit.
    DATABASE_MAX_RETRIES = Opt::new("database", "max_retries", NUMBER).or("10");
    /// In seconds.
    DATABASE_RETRY_INTERVAL = Opt::new("database", "retry_interval", NUMBER).or("10");

    /// The section that has the options of the login, from `auth_type` to `application_credential_secret`.
    AUTHTOKEN_AUTH_SECTION = authtoken("auth_section", ValueKind::Text);
    AUTHTOKEN_AUTH_TYPE = authtoken("auth_type", ValueKind::Text).once(&["auth_plugin"]);
    AUTHTOKEN_AUTH_URL = authtoken("auth_url", ValueKind::Text);
    AUTHTOKEN_USER_ID = authtoken("user_id", ValueKind::Text);
    AUTHTOKEN_USERNAME = authtoken("username", ValueKind::Text).once(&["user_name"]);
    AUTHTOKEN_USER_DOMAIN_ID = authtoken("user_domain_id", ValueKind::Text);
    AUTHTOKEN_USER_DOMAIN_NAME = authtoken("user_domain_name", ValueKind::Text);
    AUTHTOKEN_PASSWORD = authtoken("password", ValueKind::Text).secret();
    AUTHTOKEN_PROJECT_ID = authtoken("project_id", ValueKind::Text).once(&["tenant_id"]);
    AUTHTOKEN_PROJECT_NAME = authtoken("project_name", ValueKind::Text).once(&["tenant_name"]);
    AUTHTOKEN_PROJECT_DOMAIN_ID = authtoken("project_domain_id", ValueKind::Text);
    AUTHTOKEN_PROJECT_DOMAIN_NAME = authtoken("project_domain_name", ValueKind::Text);
    AUTHTOKEN_DEFAULT_DOMAIN_ID = authtoken("default_domain_id", ValueKind::Text);
    AUTHTOKEN_DEFAULT_DOMAIN_NAME = authtoken("default_domain_name", ValueKind::Text);
    AUTHTOKEN_DOMAIN_ID = authtoken("domain_id", ValueKind::Text);
    AUTHTOKEN_DOMAIN_NAME = authtoken("domain_name", ValueKind::Text);
    AUTHTOKEN_SYSTEM_SCOPE = authtoken("system_scope", ValueKind::Text);
    AUTHTOKEN_TRUST_ID = authtoken("trust_id", ValueKind::Text);
    AUTHTOKEN_TOKEN = authtoken("token", ValueKind::Text).secret();
    AUTHTOKEN_APPLICATION_CREDENTIAL_ID = authtoken("application_credential_id", ValueKind::Text);
    AUTHTOKEN_APPLICATION_CREDENTIAL_NAME = authtoken("application_credential_name", ValueKind::Text);
    AUTHTOKEN_APPLICATION_CREDENTIAL_SECRET =
        authtoken("application_credential_secret", ValueKind::Text).secret();
    AUTHTOKEN_CAFILE = authtoken("cafile", ValueKind::Text);
    AUTHTOKEN_CERTFILE = authtoken("certfile", ValueKind::Text);
    AUTHTOKEN_KEYFILE = authtoken("keyfile", ValueKind::Text);
    AUTHTOKEN_INSECURE = authtoken("insecure", ValueKind::Boolean).or("false");
    AUTHTOKEN_REGION_NAME = authtoken("region_name", ValueKind::Text);
    AUTHTOKEN_INTERFACE = authtoken("interface", ValueKind::Text).or("internal");
    AUTHTOKEN_AUTH_VERSION = authtoken("auth_version", ValueKind::Text);
    /// In seconds, for the connection and for each answer.
    AUTHTOKEN_HTTP_CONNECT_TIMEOUT = authtoken("http_connect_timeout", NUMBER);
    AUTHTOKEN_HTTP_REQUEST_MAX_RETRIES = authtoken("http_request_max_retries", NUMBER).or("3");
    AUTHTOKEN_WWW_AUTHENTICATE_URI = authtoken("www_authenticate_uri", ValueKind::Text);
    AUTHTOKEN_DELAY_AUTH_DECISION = authtoken("delay_auth_decision", ValueKind::Boolean).or("false");
    AUTHTOKEN_SERVICE_TOKEN_ROLES = authtoken("service_token_roles", ValueKind::List).or("service");
    AUTHTOKEN_SERVICE_TOKEN_ROLES_REQUIRED =
        authtoken("service_token_roles_required", ValueKind::Boolean).or("true");
    AUTHTOKEN_SERVICE_TYPE = authtoken("service_type", ValueKind::Text);
    AUTHTOKEN_INCLUDE_SERVICE_CATALOG = authtoken("include_service_catalog", ValueKind::Boolean).or("true");
    /// In seconds. Keystone's middleware has 300: a revoked token would go on working that long.
    AUTHTOKEN_TOKEN_CACHE_TIME = authtoken("token_cache_time", NUMBER).or("60");
    AUTHTOKEN_ENFORCE_TOKEN_BIND = authtoken("enforce_token_bind", ValueKind::Text).or("permissive");

    /// The types of stores if `enabled_backends` is not set; there is one store of each type.
    STORES = store("stores", ValueKind::List).or("file,http");
    WEIGHT = store("weight", NUMBER).or("0");
    FILESYSTEM_STORE_DATADIR =
        store("filesystem_store_datadir", ValueKind::Text).or("/var/lib/glance/images");
    /// Each value is `path` or `path:priority`; may be given several times.
    FILESYSTEM_STORE_DATADIRS = store("filesystem_store_datadirs", ValueKind::Text);
    HTTPS_CA_CERTIFICATES_FILE = store("https_ca_certificates_file", ValueKind::Text);
    /// Glance's default is true. Here the default is false: TLS goes unverified only if the option is set.
    HTTPS_INSECURE = store("https_insecure", ValueKind::Boolean).or("false");
    /// `http:proxy` and `https:proxy`, which may contain credentials.
    HTTP_PROXY_INFORMATION = store("http_proxy_information", ValueKind::Dictionary).secret();
    RBD_STORE_CEPH_CONF = store("rbd_store_ceph_conf", ValueKind::Text).or("");
    RBD_STORE_USER = store("rbd_store_user", ValueKind::Text);
    RBD_STORE_POOL = store("rbd_store_pool", ValueKind::Text).or("images");
    /// In seconds; a negative number selects Ceph's own default.
    RADOS_CONNECT_TIMEOUT = store("rados_connect_timeout", NUMBER).or("-1");
    S3_STORE_HOST = store("s3_store_host", ValueKind::Text);
    S3_STORE_REGION_NAME = store("s3_store_region_name", ValueKind::Text).or("");
    S3_STORE_ACCESS_KEY = store("s3_store_access_key", ValueKind::Text).secret();
    S3_STORE_SECRET_KEY = store("s3_store_secret_key", ValueKind::Text).secret();
    S3_STORE_BUCKET = store("s3_store_bucket", ValueKind::Text);
    S3_STORE_BUCKET_URL_FORMAT =
        store("s3_store_bucket_url_format", ValueKind::Choice(&["auto", "virtual", "path"])).or("auto");
    S3_STORE_CACERT = store("s3_store_cacert", ValueKind::Text).or("");

    SWIFT_STORE_CONFIG_FILE = store("swift_store_config_file", ValueKind::Text);
    /// The name of the account that new images are put into.
    DEFAULT_SWIFT_REFERENCE = store("default_swift_reference", ValueKind::Text).or("ref1");
    SWIFT_STORE_AUTH_ADDRESS = store("swift_store_auth_address", ValueKind::Text);
    /// `project:user`.
    SWIFT_STORE_USER = store("swift_store_user", ValueKind::Text).secret();
    SWIFT_STORE_KEY = store("swift_store_key", ValueKind::Text).secret();
    SWIFT_STORE_APPLICATION_CREDENTIAL_ID =
        store("swift_store_application_credential_id", ValueKind::Text).secret();
    SWIFT_STORE_APPLICATION_CREDENTIAL_SECRET =
        store("swift_store_application_credential_secret", ValueKind::Text).secret();
    /// Up to, and without, the container.
    SWIFT_STORE_ENDPOINT = store("swift_store_endpoint", ValueKind::Text);
    SWIFT_STORE_ENDPOINT_TYPE =
        store("swift_store_endpoint_type", ValueKind::Choice(&["publicURL", "adminURL", "internalURL"]))
            .or("publicURL");
    SWIFT_STORE_SERVICE_TYPE = store("swift_store_service_type", ValueKind::Text).or("object-store");
    SWIFT_STORE_REGION = store("swift_store_region", ValueKind::Text);
    SWIFT_STORE_AUTH_INSECURE = store("swift_store_auth_insecure", ValueKind::Boolean).or("false");
    SWIFT_STORE_CACERT = store("swift_store_cacert", ValueKind::Text);

    PXE_INSTANCE_MASTER_PATH =
        Opt::new("pxe", "instance_master_path", ValueKind::Text).or("/var/lib/ironic/master_images");
    PXE_TFTP_MASTER_PATH = Opt::new("pxe", "tftp_master_path", ValueKind::Text).or("/tftpboot/master_images");
    /// In MiB, for each of the two directories.
    PXE_IMAGE_CACHE_SIZE = Opt::new("pxe", "image_cache_size", SIZE).or("20480");
    /// In minutes.
    PXE_IMAGE_CACHE_TTL = Opt::new("pxe", "image_cache_ttl", SIZE).or("10080");
    PXE_TFTP_ROOT = Opt::new("pxe", "tftp_root", ValueKind::Text).or("/tftpboot");
    DEPLOY_ISO_MASTER_PATH =
        Opt::new("deploy", "iso_master_path", ValueKind::Text).or("/var/lib/ironic/master_iso_images");
    /// In MiB.
    DEPLOY_ISO_CACHE_SIZE = Opt::new("deploy", "iso_cache_size", SIZE).or("20480");
    /// In minutes.
    DEPLOY_ISO_CACHE_TTL = Opt::new("deploy", "iso_cache_ttl", SIZE).or("10080");
    DEPLOY_HTTP_ROOT = Opt::new("deploy", "http_root", ValueKind::Text).or("/httpboot");

    /// A list of images that no prune removes. An option of this tool itself.
    KEEP_FROM = Opt::new("glance_cache", "keep_from", ValueKind::Text);

    API_BIND_HOST = service("bind_host", ValueKind::Text).or("127.0.0.1");
    /// 0 stands for no listener on TCP.
    API_BIND_PORT = service("bind_port", SIZE).or("9393");
    API_BIND_SOCKET = service("bind_socket", ValueKind::Text);
    API_CERT_FILE = service("cert_file", ValueKind::Text);
    API_KEY_FILE = service("key_file", ValueKind::Text);
    /// Certificates of clients are asked for if this is set.
    API_CA_FILE = service("ca_file", ValueKind::Text);
    API_AUTH_STRATEGY = service("auth_strategy", ValueKind::Choice(&["keystone", "none"])).or("keystone");
    /// This and the other times of the service are seconds, or numbers with units such as `15m`. 0 is never,
    /// for the intervals of prunes, cleans and prefetches.
    API_PRUNE_INTERVAL = service("prune_interval", ValueKind::Text).or("0");
    API_CLEAN_INTERVAL = service("clean_interval", ValueKind::Text).or("0");
    API_PREFETCH_INTERVAL = service("prefetch_interval", ValueKind::Text).or("0");
    API_POLL_INTERVAL = service("poll_interval", ValueKind::Text).or("30");
    API_LOCK_TIMEOUT = service("lock_timeout", ValueKind::Text).or("20");
    API_OPERATION_TIMEOUT = service("operation_timeout", ValueKind::Text).or("15m");
    API_SHUTDOWN_TIMEOUT = service("shutdown_timeout", ValueKind::Text).or("30");
    API_MAX_CONNECTIONS = service("max_connections", ValueKind::Integer { min: 1 }).or("64");
    API_CLIENT_SOCKET_TIMEOUT = service("client_socket_timeout", ValueKind::Text).or("30");
    /// In bytes. As in Glance, a token of Keystone has to fit into a line.
    API_MAX_HEADER_LINE = service("max_header_line", ValueKind::Integer { min: 256 }).or("16384");
    API_METRICS_BIND = service("metrics_bind", ValueKind::Text);
    API_DISABLE_BY_FILE_PATH = service("disable_by_file_path", ValueKind::Text);
    API_PUBLIC_ENDPOINT = service("public_endpoint", ValueKind::Text);
    API_GLANCE_API_URL = service("glance_api_url", ValueKind::Text);

    /// Looked for in the directories of the configuration, as the directories are.
    OSLO_POLICY_FILE = policy("policy_file", ValueKind::Text).or("policy.yaml");
    /// May be given several times.
    OSLO_POLICY_DIRS = policy("policy_dirs", ValueKind::Text).or("policy.d");
    OSLO_POLICY_DEFAULT_RULE = policy("policy_default_rule", ValueKind::Text).or("default");
    OSLO_POLICY_ENFORCE_NEW_DEFAULTS = policy("enforce_new_defaults", ValueKind::Boolean).or("true");
    /// oslo.policy 6 has no such option any more: there it is always true.
    OSLO_POLICY_ENFORCE_SCOPE = policy("enforce_scope", ValueKind::Boolean).or("true");

    DEBUG = default("debug", ValueKind::Boolean).or("false");
    LOG_CONFIG_APPEND = default("log_config_append", ValueKind::Text).once(&["log-config", "log_config"]);
    LOG_DATE_FORMAT = default("log_date_format", ValueKind::Text).or("%Y-%m-%d %H:%M:%S");
    LOG_FILE = default("log_file", ValueKind::Text).once(&["logfile"]);
    LOG_DIR = default("log_dir", ValueKind::Text).once(&["logdir"]);
    WATCH_LOG_FILE = default("watch_log_file", ValueKind::Boolean).or("false");
    USE_SYSLOG = default("use_syslog", ValueKind::Boolean).or("false");
    USE_JOURNAL = default("use_journal", ValueKind::Boolean).or("false");
    SYSLOG_LOG_FACILITY = default("syslog_log_facility", ValueKind::Text).or("LOG_USER");
    USE_JSON = default("use_json", ValueKind::Boolean).or("false");
    /// The default of Glance's cache tools; oslo.log's own is false.
    USE_STDERR = default("use_stderr", ValueKind::Boolean).or("true");
    LOG_COLOR = default("log_color", ValueKind::Boolean).or("false");
    LOGGING_CONTEXT_FORMAT_STRING = default("logging_context_format_string", ValueKind::Text).or(
        "%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s [%(global_request_id)s %(request_id)s \
         %(user_identity)s] %(instance)s%(message)s",
    );
    LOGGING_DEFAULT_FORMAT_STRING = default("logging_default_format_string", ValueKind::Text)
        .or("%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s [-] %(instance)s%(message)s");
    LOGGING_DEBUG_FORMAT_SUFFIX =
        default("logging_debug_format_suffix", ValueKind::Text).or("%(funcName)s %(pathname)s:%(lineno)d");
    LOGGING_EXCEPTION_PREFIX = default("logging_exception_prefix", ValueKind::Text)
        .or("%(asctime)s.%(msecs)03d %(process)d ERROR %(name)s %(instance)s");
    LOGGING_USER_IDENTITY_FORMAT = default("logging_user_identity_format", ValueKind::Text)
        .or("%(user)s %(project)s %(domain)s %(system_scope)s %(user_domain)s %(project_domain)s");
}

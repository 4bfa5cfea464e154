//! The options this tool knows, with oslo's types and defaults.
//!
//! Only what is read somewhere, or may be named with `$` in such a value, is here. An option of a section whose
//! name is the operator's (a store) is made from a constant: `Opt { group: &store, ..RBD_STORE_POOL }`.

/// One option: where it stands and what it may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opt<'a> {
    pub(crate) group: &'a str,
    pub(crate) name: &'a str,
    /// Older names in the same group. They count in files only, not in the environment.
    pub(crate) older_names: &'a [&'a str],
    pub(crate) kind: Kind<'a>,
    /// In a file's notation.
    pub(crate) default: Option<&'a str>,
    /// Whether the value must not be shown, not even when it is wrong.
    pub(crate) secret: bool,
}

/// What values an option takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind<'a> {
    Text,
    /// One of these, whatever the case.
    Choice(&'a [&'a str]),
    Boolean,
    /// A whole number, this or greater.
    Integer {
        min: i64,
    },
    /// Items with commas between them.
    List,
    /// `key:value` items with commas between them.
    Dictionary,
}

impl<'a> Opt<'a> {
    pub(crate) const fn new(group: &'a str, name: &'a str, kind: Kind<'a>) -> Self {
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

const fn default(name: &'static str, kind: Kind<'static>) -> Opt<'static> {
    Opt::new("DEFAULT", name, kind)
}

/// An option of a store; the section may have another name.
const fn store(name: &'static str, kind: Kind<'static>) -> Opt<'static> {
    Opt::new("glance_store", name, kind)
}

const SIZE: Kind<'static> = Kind::Integer { min: 0 };
const NUMBER: Kind<'static> = Kind::Integer { min: i64::MIN };

/// Declares constants and, from the same list, the table of them all.
macro_rules! options {
    ($($(#[$doc:meta])* $name:ident = $opt:expr;)*) => {
        $($(#[$doc])* pub(crate) const $name: Opt<'static> = $opt;)*
        pub(crate) const KNOWN: &[Opt<'static>] = &[$($name),*];
    };
}

options! {
    IMAGE_CACHE_DIR = default("image_cache_dir", Kind::Text);
    /// Glance's default is the first of the three; whether it was set at all, the origin tells.
    IMAGE_CACHE_DRIVER =
        default("image_cache_driver", Kind::Choice(&["centralized_db", "sqlite", "xattr"])).or("centralized_db");
    /// In bytes.
    IMAGE_CACHE_MAX_SIZE = default("image_cache_max_size", SIZE).or("10737418240");
    /// In seconds.
    IMAGE_CACHE_STALL_TIME = default("image_cache_stall_time", SIZE).or("86400");
    IMAGE_CACHE_SQLITE_DB = default("image_cache_sqlite_db", Kind::Text).or("cache.db");
    WORKER_SELF_REFERENCE_URL = default("worker_self_reference_url", Kind::Text);
    /// Names of sections that say where more settings are; not supported.
    CONFIG_SOURCE = default("config_source", Kind::List);
    /// The ids of all stores and their types.
    ENABLED_BACKENDS = default("enabled_backends", Kind::Dictionary);
    METADATA_ENCRYPTION_KEY = default("metadata_encryption_key", Kind::Text).secret();
    NODE_STAGING_URI = default("node_staging_uri", Kind::Text).or("file:///tmp/staging/");

    LOCK_PATH = Opt::new("oslo_concurrency", "lock_path", Kind::Text);

    DATABASE_CONNECTION = Opt::new("database", "connection", Kind::Text).secret();
    /// -1 is for ever.
    DATABASE_MAX_RETRIES = Opt::new("database", "max_retries", NUMBER).or("10");
    /// In seconds.
    DATABASE_RETRY_INTERVAL = Opt::new("database", "retry_interval", NUMBER).or("10");

    /// The types of the one store of each type, where no `enabled_backends` says otherwise.
    STORES = store("stores", Kind::List).or("file,http");
    WEIGHT = store("weight", NUMBER).or("0");
    FILESYSTEM_STORE_DATADIR = store("filesystem_store_datadir", Kind::Text).or("/var/lib/glance/images");
    /// Each `path` or `path:priority`; may stand several times.
    FILESYSTEM_STORE_DATADIRS = store("filesystem_store_datadirs", Kind::Text);
    HTTPS_CA_CERTIFICATES_FILE = store("https_ca_certificates_file", Kind::Text);
    /// Glance's default is true; only one that was set counts here.
    HTTPS_INSECURE = store("https_insecure", Kind::Boolean).or("false");
    /// `http:proxy` and `https:proxy`, perhaps with credentials.
    HTTP_PROXY_INFORMATION = store("http_proxy_information", Kind::Dictionary).secret();
    RBD_STORE_CEPH_CONF = store("rbd_store_ceph_conf", Kind::Text).or("");
    RBD_STORE_USER = store("rbd_store_user", Kind::Text);
    RBD_STORE_POOL = store("rbd_store_pool", Kind::Text).or("images");
    /// In seconds; below 0 is Ceph's own.
    RADOS_CONNECT_TIMEOUT = store("rados_connect_timeout", NUMBER).or("-1");
    S3_STORE_HOST = store("s3_store_host", Kind::Text);
    S3_STORE_REGION_NAME = store("s3_store_region_name", Kind::Text).or("");
    S3_STORE_ACCESS_KEY = store("s3_store_access_key", Kind::Text).secret();
    S3_STORE_SECRET_KEY = store("s3_store_secret_key", Kind::Text).secret();
    S3_STORE_BUCKET = store("s3_store_bucket", Kind::Text);
    S3_STORE_BUCKET_URL_FORMAT =
        store("s3_store_bucket_url_format", Kind::Choice(&["auto", "virtual", "path"])).or("auto");
    S3_STORE_CACERT = store("s3_store_cacert", Kind::Text).or("");

    PXE_INSTANCE_MASTER_PATH =
        Opt::new("pxe", "instance_master_path", Kind::Text).or("/var/lib/ironic/master_images");
    PXE_TFTP_MASTER_PATH = Opt::new("pxe", "tftp_master_path", Kind::Text).or("/tftpboot/master_images");
    /// In MiB, for each of the two.
    PXE_IMAGE_CACHE_SIZE = Opt::new("pxe", "image_cache_size", SIZE).or("20480");
    /// In minutes.
    PXE_IMAGE_CACHE_TTL = Opt::new("pxe", "image_cache_ttl", SIZE).or("10080");
    PXE_TFTP_ROOT = Opt::new("pxe", "tftp_root", Kind::Text).or("/tftpboot");
    DEPLOY_ISO_MASTER_PATH =
        Opt::new("deploy", "iso_master_path", Kind::Text).or("/var/lib/ironic/master_iso_images");
    /// In MiB.
    DEPLOY_ISO_CACHE_SIZE = Opt::new("deploy", "iso_cache_size", SIZE).or("20480");
    /// In minutes.
    DEPLOY_ISO_CACHE_TTL = Opt::new("deploy", "iso_cache_ttl", SIZE).or("10080");
    DEPLOY_HTTP_ROOT = Opt::new("deploy", "http_root", Kind::Text).or("/httpboot");

    DEBUG = default("debug", Kind::Boolean).or("false");
    LOG_CONFIG_APPEND = default("log_config_append", Kind::Text).once(&["log-config", "log_config"]);
    LOG_DATE_FORMAT = default("log_date_format", Kind::Text).or("%Y-%m-%d %H:%M:%S");
    LOG_FILE = default("log_file", Kind::Text).once(&["logfile"]);
    LOG_DIR = default("log_dir", Kind::Text).once(&["logdir"]);
    WATCH_LOG_FILE = default("watch_log_file", Kind::Boolean).or("false");
    USE_SYSLOG = default("use_syslog", Kind::Boolean).or("false");
    USE_JOURNAL = default("use_journal", Kind::Boolean).or("false");
    SYSLOG_LOG_FACILITY = default("syslog_log_facility", Kind::Text).or("LOG_USER");
    USE_JSON = default("use_json", Kind::Boolean).or("false");
    /// On, as in Glance's cache tools; oslo.log itself has it off.
    USE_STDERR = default("use_stderr", Kind::Boolean).or("true");
    LOG_COLOR = default("log_color", Kind::Boolean).or("false");
    LOGGING_CONTEXT_FORMAT_STRING = default("logging_context_format_string", Kind::Text).or(
        "%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s [%(global_request_id)s %(request_id)s \
         %(user_identity)s] %(instance)s%(message)s",
    );
    LOGGING_DEFAULT_FORMAT_STRING = default("logging_default_format_string", Kind::Text)
        .or("%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s [-] %(instance)s%(message)s");
    LOGGING_DEBUG_FORMAT_SUFFIX =
        default("logging_debug_format_suffix", Kind::Text).or("%(funcName)s %(pathname)s:%(lineno)d");
    LOGGING_EXCEPTION_PREFIX = default("logging_exception_prefix", Kind::Text)
        .or("%(asctime)s.%(msecs)03d %(process)d ERROR %(name)s %(instance)s");
    LOGGING_USER_IDENTITY_FORMAT = default("logging_user_identity_format", Kind::Text)
        .or("%(user)s %(project)s %(domain)s %(system_scope)s %(user_domain)s %(project_domain)s");
}

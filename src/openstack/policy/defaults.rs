//! The rules that Glance 33 has without a policy file.
//!
//! All of them, because a rule of a file may refer to any of them. A test compares them with Glance's own.

/// A rule of Glance's.
#[derive(Debug)]
pub(super) struct DefaultRule {
    pub(super) name: &'static str,
    pub(super) check: &'static str,
    /// The check of earlier releases, which also allows a request if `enforce_new_defaults` is false.
    pub(super) older_check: Option<&'static str>,
}

const fn rule(name: &'static str, check: &'static str) -> DefaultRule {
    DefaultRule { name, check, older_check: None }
}

impl DefaultRule {
    const fn once(self, older_check: &'static str) -> Self {
        Self { older_check: Some(older_check), ..self }
    }
}

/// Returns the rule of that name.
pub(super) fn default_rule(name: &str) -> Option<&'static DefaultRule> {
    DEFAULTS.iter().find(|rule| rule.name == name)
}

const ADMIN: &str = "rule:context_is_admin";
const DEFAULT: &str = "rule:default";
const METADEF_DEFAULT: &str = "rule:metadef_default";
const METADEF_ADMIN: &str = "rule:metadef_admin";
const MEMBER: &str = "rule:context_is_admin or (role:member and project_id:%(project_id)s)";
const READER: &str = "rule:context_is_admin or (role:reader and project_id:%(project_id)s)";
const READER_OR_MEMBER_OF_IMAGE: &str = "rule:context_is_admin or role:reader and \
     (project_id:%(project_id)s or project_id:%(member_id)s)";
const READER_OR_PUBLIC: &str = "rule:context_is_admin or (role:reader and \
     (project_id:%(project_id)s or 'public':%(visibility)s))";
const DOWNLOAD: &str = "rule:context_is_admin or (role:member and (project_id:%(project_id)s or \
     project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or \
     'shared':%(visibility)s))";

pub(super) const DEFAULTS: &[DefaultRule] = &[
    rule("default", "").once(ADMIN),
    rule("context_is_admin", "role:admin"),
    rule("service_api", "role:service or role:admin"),
    rule(
        "add_image",
        "rule:context_is_admin or (role:member and project_id:%(project_id)s and \
         project_id:%(owner)s)",
    )
    .once(DEFAULT),
    rule("delete_image", MEMBER).once(DEFAULT),
    rule(
        "get_image",
        "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or \
         project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or \
         'shared':%(visibility)s))",
    )
    .once(DEFAULT),
    rule("get_images", READER).once(DEFAULT),
    rule("modify_image", MEMBER).once(DEFAULT),
    rule("publicize_image", ADMIN),
    rule("communitize_image", MEMBER).once(DEFAULT),
    rule("download_image", DOWNLOAD).once(DEFAULT),
    rule("download_from_store", DOWNLOAD),
    rule("upload_image", MEMBER).once(DEFAULT),
    rule("delete_image_location", ADMIN).once(DEFAULT),
    rule("get_image_location", READER).once(DEFAULT),
    rule("set_image_location", MEMBER).once(DEFAULT),
    rule(
        "add_image_location",
        "rule:service_api or (role:member and project_id:%(project_id)s and project_id:%(owner)s)",
    ),
    rule("fetch_image_location", "rule:service_api"),
    rule("add_member", MEMBER).once(DEFAULT),
    rule("delete_member", MEMBER).once(DEFAULT),
    rule("get_member", READER_OR_MEMBER_OF_IMAGE).once(DEFAULT),
    rule("get_members", READER_OR_MEMBER_OF_IMAGE).once(DEFAULT),
    rule("modify_member", "rule:context_is_admin or (role:member and project_id:%(member_id)s)")
        .once(DEFAULT),
    rule("manage_image_cache", ADMIN),
    rule("deactivate", MEMBER).once(DEFAULT),
    rule("reactivate", MEMBER).once(DEFAULT),
    rule("copy_image", ADMIN),
    rule("list_cached_nodes", ADMIN),
    rule("get_task", DEFAULT),
    rule("get_tasks", DEFAULT),
    rule("add_task", DEFAULT),
    rule("modify_task", DEFAULT),
    rule("tasks_api_access", ADMIN),
    rule("metadef_default", ""),
    rule("metadef_admin", ADMIN),
    rule("get_metadef_namespace", READER_OR_PUBLIC).once(METADEF_DEFAULT),
    rule("get_metadef_namespaces", READER).once(METADEF_DEFAULT),
    rule("modify_metadef_namespace", METADEF_ADMIN),
    rule("add_metadef_namespace", METADEF_ADMIN),
    rule("delete_metadef_namespace", METADEF_ADMIN),
    rule("get_metadef_object", READER_OR_PUBLIC).once(METADEF_DEFAULT),
    rule("get_metadef_objects", READER_OR_PUBLIC).once(METADEF_DEFAULT),
    rule("modify_metadef_object", METADEF_ADMIN),
    rule("add_metadef_object", METADEF_ADMIN),
    rule("delete_metadef_object", METADEF_ADMIN),
    rule("list_metadef_resource_types", READER_OR_PUBLIC).once(METADEF_DEFAULT),
    rule("get_metadef_resource_type", READER_OR_PUBLIC).once(METADEF_DEFAULT),
    rule("add_metadef_resource_type_association", METADEF_ADMIN),
    rule("remove_metadef_resource_type_association", METADEF_ADMIN),
    rule("get_metadef_property", READER_OR_PUBLIC).once(METADEF_DEFAULT),
    rule("get_metadef_properties", READER_OR_PUBLIC).once(METADEF_DEFAULT),
    rule("modify_metadef_property", METADEF_ADMIN),
    rule("add_metadef_property", METADEF_ADMIN),
    rule("remove_metadef_property", METADEF_ADMIN),
    rule("get_metadef_tag", READER_OR_PUBLIC).once(METADEF_DEFAULT),
    rule("get_metadef_tags", READER_OR_PUBLIC).once(METADEF_DEFAULT),
    rule("modify_metadef_tag", METADEF_ADMIN),
    rule("add_metadef_tag", METADEF_ADMIN),
    rule("add_metadef_tags", METADEF_ADMIN),
    rule("delete_metadef_tag", METADEF_ADMIN),
    rule("delete_metadef_tags", METADEF_ADMIN),
    rule("cache_image", ADMIN).once("rule:manage_image_cache"),
    rule("cache_list", ADMIN).once("rule:manage_image_cache"),
    rule("cache_delete", ADMIN).once("rule:manage_image_cache"),
    rule("cache_clean", ADMIN),
    rule("cache_prune", ADMIN),
    rule("stores_info_detail", "rule:context_is_admin or rule:service_api").once(ADMIN),
];

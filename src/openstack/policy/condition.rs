//! A rule of a policy as a tree of conditions, and the answer that it gives for a caller and a target.
//!
//! Pure: no files, no clock. A condition that cannot be judged for a target (an attribute of an image that
//! this program does not know) is neither true nor false, and a request that depends on it is refused, even
//! where the rule says `not`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::openstack::caller::{Caller, Credential};

/// The attributes and methods of an image that a policy check of Glance reaches. Any other name is a property
/// of the image.
const ATTRIBUTES: &[&str] = &[
    "base",
    "checksum",
    "container_format",
    "created_at",
    "deactivate",
    "delete",
    "disk_format",
    "extra_properties",
    "get_data",
    "helper",
    "image_id",
    "locations",
    "member",
    "min_disk",
    "min_ram",
    "name",
    "os_hash_algo",
    "os_hash_value",
    "os_hidden",
    "owner",
    "protected",
    "reactivate",
    "set_data",
    "size",
    "status",
    "tags",
    "updated_at",
    "virtual_size",
    "visibility",
];

/// One rule as written, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PolicyCheck {
    Everybody,
    Nobody,
    /// The rule of that name decides.
    Rule(String),
    /// The caller has the role.
    Role(Pattern),
    /// A text of the rule itself equals what the pattern gives.
    Literal {
        /// As written in Python: `'public'`, `True`, `7`.
        source: String,
        /// As Python shows it.
        value: String,
        pattern: Pattern,
    },
    /// A credential of the caller, or one item of it, equals what the pattern gives. A name that is no
    /// credential is never equal to anything.
    Credential {
        name: String,
        pattern: Pattern,
    },
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
}

/// A text in which `%(name)s` stands for an attribute of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pattern(pub(super) Vec<PatternPiece>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PatternPiece {
    Text(String),
    Attribute(String),
}

/// The object that a request is about, as far as policy checks can read it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    /// `None` is Python's, which it shows as a text.
    attributes: BTreeMap<String, Option<String>>,
    is_image: bool,
}

impl Target {
    /// Returns the target of requests that are about the cache as a whole: it has no attributes.
    pub(crate) fn cache() -> Self {
        Self::default()
    }

    /// Returns an image with its attributes and properties by Glance's names, such as `owner`, `visibility`
    /// and `status`. Numbers are in decimal, booleans `True` and `False`.
    ///
    /// An attribute that is left out cannot be judged; a property that is left out does not exist.
    pub(crate) fn image(attributes: impl IntoIterator<Item = (String, Option<String>)>) -> Self {
        Self { attributes: attributes.into_iter().collect(), is_image: true }
    }

    /// True if a name is that of an attribute of images, which no property can stand for.
    pub(crate) fn is_attribute(name: &str) -> bool {
        ATTRIBUTES.contains(&name) || name.starts_with('_')
    }

    /// Returns an attribute as Python shows it; `Err` if there is none, with [`Truth::Unknown`] if an image
    /// has one that is not known here.
    fn attribute(&self, name: &str) -> Result<&str, Truth> {
        let name = match name {
            "id" if self.is_image => "image_id",
            "project_id" if self.is_image => "owner",
            "member_id" if self.is_image => "member",
            name => name,
        };
        match self.attributes.get(name) {
            Some(value) => Ok(value.as_deref().unwrap_or("None")),
            None if self.is_image && Self::is_attribute(name) => Err(Truth::Unknown),
            None => Err(Truth::No),
        }
    }
}

/// The answer of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    Yes,
    No,
    /// Neither: the request is refused.
    Unknown,
}

impl From<bool> for Truth {
    fn from(is_so: bool) -> Self {
        if is_so { Self::Yes } else { Self::No }
    }
}

impl std::ops::Not for Truth {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
        }
    }
}

/// Answers the conditions that have no parts.
pub(super) trait Judge {
    fn role(&self, pattern: &Pattern) -> Truth;
    fn literal(&self, value: &str, pattern: &Pattern) -> Truth;
    fn credential(&self, name: &str, pattern: &Pattern) -> Truth;
}

impl PolicyCheck {
    /// Returns the answer; `rules` has the answers of all rules that this one refers to.
    pub(super) fn answer(&self, judge: &impl Judge, rules: &HashMap<&str, Truth>) -> Truth {
        match self {
            Self::Everybody => Truth::Yes,
            Self::Nobody => Truth::No,
            Self::Rule(name) => rules.get(name.as_str()).copied().unwrap_or(Truth::Unknown),
            Self::Role(pattern) => judge.role(pattern),
            Self::Literal { value, pattern, .. } => judge.literal(value, pattern),
            Self::Credential { name, pattern } => judge.credential(name, pattern),
            Self::Not(condition) => !condition.answer(judge, rules),
            Self::And(parts) => decided(parts, Truth::No, judge, rules),
            Self::Or(parts) => decided(parts, Truth::Yes, judge, rules),
        }
    }

    /// Calls `visit` with the name of every rule that this condition refers to.
    pub(super) fn each_rule<'a>(&'a self, visit: &mut dyn FnMut(&'a str)) {
        match self {
            Self::Rule(name) => visit(name),
            Self::Not(condition) => condition.each_rule(visit),
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|part| part.each_rule(visit)),
            _ => {}
        }
    }

    /// True if the answer may depend on the target.
    pub(super) fn reads_target(&self) -> bool {
        match self {
            Self::Role(pattern) | Self::Literal { pattern, .. } | Self::Credential { pattern, .. } => {
                pattern.fixed().is_none()
            }
            Self::Not(condition) => condition.reads_target(),
            Self::And(parts) | Self::Or(parts) => parts.iter().any(Self::reads_target),
            Self::Everybody | Self::Nobody | Self::Rule(_) => false,
        }
    }

    /// Calls `visit` with every name that is compared as a credential.
    pub(super) fn each_credential<'a>(&'a self, visit: &mut dyn FnMut(&'a str)) {
        match self {
            Self::Credential { name, .. } => visit(name),
            Self::Not(condition) => condition.each_credential(visit),
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|part| part.each_credential(visit)),
            _ => {}
        }
    }
}

/// Joins the answers of parts, of which one that is `decisive` decides.
fn decided(
    parts: &[PolicyCheck],
    decisive: Truth,
    judge: &impl Judge,
    rules: &HashMap<&str, Truth>,
) -> Truth {
    let mut joined = !decisive;
    for part in parts {
        match part.answer(judge, rules) {
            answer if answer == decisive => return decisive,
            Truth::Unknown => joined = Truth::Unknown,
            _ => {}
        }
    }
    joined
}

impl Pattern {
    /// Returns the text for a target, or the answer of any comparison with it if there is none.
    fn text(&self, target: &Target) -> Result<String, Truth> {
        self.0.iter().try_fold(String::new(), |text, piece| {
            Ok(text
                + match piece {
                    PatternPiece::Text(piece) => piece,
                    PatternPiece::Attribute(name) => target.attribute(name)?,
                })
        })
    }

    /// Returns the text if it is the same for every target.
    fn fixed(&self) -> Option<String> {
        let texts = self.0.iter().map(|piece| match piece {
            PatternPiece::Text(text) => Some(text.as_str()),
            PatternPiece::Attribute(_) => None,
        });
        texts.collect()
    }
}

/// Judges a request.
pub(super) struct Asked<'a> {
    pub(super) caller: &'a Caller,
    pub(super) target: &'a Target,
}

impl Judge for Asked<'_> {
    fn role(&self, pattern: &Pattern) -> Truth {
        let has = |role: &str| self.caller.roles.iter().any(|has| has.to_lowercase() == role);
        pattern.text(self.target).map_or_else(|answer| answer, |role| has(&role.to_lowercase()).into())
    }

    fn literal(&self, value: &str, pattern: &Pattern) -> Truth {
        pattern.text(self.target).map_or_else(|answer| answer, |text| (text == value).into())
    }

    fn credential(&self, name: &str, pattern: &Pattern) -> Truth {
        let is = |text: String| match self.caller.credential(name) {
            Credential::One(value) => value == text,
            Credential::Many(values) => values.contains(&text),
            Credential::Missing => false,
        };
        pattern.text(self.target).map_or_else(|answer| answer, |text| is(text).into())
    }
}

/// Judges all requests at once: a condition whose answer depends on the request is unknown.
pub(super) struct AskedAnything;

impl Judge for AskedAnything {
    fn role(&self, _: &Pattern) -> Truth {
        Truth::Unknown
    }

    fn literal(&self, value: &str, pattern: &Pattern) -> Truth {
        pattern.fixed().map_or(Truth::Unknown, |text| (text == value).into())
    }

    fn credential(&self, name: &str, _: &Pattern) -> Truth {
        if Caller::is_credential(name) { Truth::Unknown } else { Truth::No }
    }
}

impl fmt::Display for PolicyCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody => f.write_str("@"),
            Self::Nobody => f.write_str("!"),
            Self::Rule(name) => write!(f, "rule:{name}"),
            Self::Role(pattern) => write!(f, "role:{pattern}"),
            Self::Literal { source, pattern, .. } => write!(f, "{source}:{pattern}"),
            Self::Credential { name, pattern } => write!(f, "{name}:{pattern}"),
            Self::Not(condition) => write!(f, "not {condition}"),
            Self::And(parts) => joined(f, parts, " and "),
            Self::Or(parts) => joined(f, parts, " or "),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, parts: &[PolicyCheck], word: &str) -> fmt::Result {
    let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
    write!(f, "({})", parts.join(word))
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            PatternPiece::Text(text) => f.write_str(&text.replace('%', "%%")),
            PatternPiece::Attribute(name) => write!(f, "%({name})s"),
        })
    }
}

//! The command line of the bench: what to measure, and which programs to compare.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

use super::prefetch::Batch;

/// The build of glance-cache that belongs to this bench.
const OURS: &str = env!("CARGO_BIN_EXE_glance-cache");

/// The parts of the bench that run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Parts {
    /// Starts, prunes and cleans of one cache.
    pub(super) one_cache: bool,
    pub(super) host: bool,
    pub(super) prefetch: bool,
    pub(super) serve: bool,
    pub(super) stores: bool,
}

impl Parts {
    const NONE: Parts = Parts { one_cache: false, host: false, prefetch: false, serve: false, stores: false };
}

/// The programs that are compared. Those that are `None` are left out.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) ours: PathBuf,
    /// Another build of glance-cache.
    pub(super) before: Option<PathBuf>,
    /// A Python that has Glance 33, with its tools in the same directory.
    pub(super) glance: Option<PathBuf>,
    /// A Python that has a Glance with a working prefetcher.
    pub(super) glance31: Option<PathBuf>,
    /// A Python that has Ironic.
    pub(super) ironic: Option<PathBuf>,
    /// A Python that has Keystone.
    pub(super) keystone: Option<PathBuf>,
    /// A Python that has Swift.
    pub(super) swift: Option<PathBuf>,
}

const EVERYTHING: Parts = Parts { one_cache: true, host: true, prefetch: true, serve: true, stores: true };

#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Where the caches are made.
    pub(super) dir: PathBuf,
    /// Numbers of images, ascending.
    pub(super) sizes: Vec<usize>,
    pub(super) parts: Parts,
    /// What prefetch fetches: many smaller images, and larger ones.
    pub(super) batches: [Batch; 2],
    pub(super) programs: Programs,
    /// Where the page and its plots are written.
    pub(super) page: Option<PathBuf>,
}

/// What the command line says, before it is put together.
#[derive(Default)]
struct Options {
    dir: Option<PathBuf>,
    sizes: Option<Vec<usize>>,
    million: bool,
    quick: bool,
    parts: Option<Parts>,
    batches: Option<[Batch; 2]>,
    ours: Option<PathBuf>,
    before: Option<PathBuf>,
    markdown: bool,
    docs: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} takes a value"));
            match argument.as_str() {
                "--dir" => options.dir = Some(value()?.into()),
                "--sizes" => options.sizes = Some(sizes(value()?)?),
                "--million" => options.million = true,
                "--quick" => options.quick = true,
                "--host" => options.parts = Some(Parts { host: true, ..Parts::NONE }),
                "--prefetch" => options.parts = Some(Parts { prefetch: true, ..Parts::NONE }),
                "--serve" => options.parts = Some(Parts { serve: true, ..Parts::NONE }),
                "--stores" => options.parts = Some(Parts { stores: true, ..Parts::NONE }),
                "--all" => options.parts = Some(EVERYTHING),
                "--images" => options.batches = Some(batches(value()?)?),
                "--binary" => options.ours = Some(program(value()?)?),
                "--compare" => options.before = Some(program(value()?)?),
                "--markdown" => options.markdown = true,
                "--docs" => options.docs = Some(value()?.into()),
                other => bail!("unknown argument {other}: see benches/run --help"),
            }
        }
        Ok(options)
    }

    fn sizes(&self) -> Vec<usize> {
        let mut sizes = self.sizes.clone().unwrap_or_else(|| vec![1_000, 10_000]);
        if self.sizes.is_none() {
            sizes.extend((!self.quick).then_some(100_000));
            // A curve needs a third point.
            sizes.extend(self.markdown.then_some(100));
        }
        sizes.extend(self.million.then_some(1_000_000));
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

/// Reads the command line, and from the environment where the real tools are.
pub(super) fn read(arguments: &[String]) -> Result<Wanted> {
    let options = Options::parse(arguments)?;
    let usual = Parts { prefetch: false, serve: false, stores: false, ..EVERYTHING };
    let parts =
        options.parts.unwrap_or(if options.markdown { Parts { stores: false, ..EVERYTHING } } else { usual });
    let usual = if options.quick { Batch::QUICK } else { Batch::USUAL };
    let docs = options.docs.clone().unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/docs").into());
    Ok(Wanted {
        sizes: options.sizes(),
        parts,
        batches: options.batches.unwrap_or(usual),
        programs: programs(&options, parts)?,
        page: options.markdown.then_some(docs),
        dir: options.dir.context("--dir DIR: the directory in which the caches are made")?,
    })
}

/// Returns the programs to compare. Two builds of glance-cache are compared with each other and the bare
/// program only.
fn programs(options: &Options, parts: Parts) -> Result<Programs> {
    let ours = options.ours.clone().unwrap_or_else(|| OURS.into());
    if options.before.is_some() {
        let before = options.before.clone();
        let (glance, glance31, ironic, keystone, swift) = (None, None, None, None, None);
        return Ok(Programs { ours, before, glance, glance31, ironic, keystone, swift });
    }
    let real = |name: &str, what: &str, needed: bool| {
        let given = std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if given.is_none() && needed {
            println!("NOT COMPARED WITH {what}: set {name} to a Python that has it\n");
        }
        given
    };
    let glance = real("GLANCE_CACHE_TEST_PYTHON", "GLANCE (tests/run installs it)", true);
    if let Some(python) = &glance {
        ensure!(
            python.with_file_name("glance-cache-pruner").exists(),
            "there is no glance-cache-pruner next to {}: set GLANCE_CACHE_TEST_PYTHON to the Python in \
             whose environment Glance is installed",
            python.display()
        );
    }
    let glance31 = real("GLANCE_CACHE_TEST_GLANCE31_PYTHON", "GLANCE 31", parts.prefetch);
    let ironic = real("GLANCE_CACHE_TEST_IRONIC_PYTHON", "IRONIC", parts.host);
    let keystone = real("GLANCE_CACHE_TEST_KEYSTONE_PYTHON", "GLANCE'S API", parts.serve || parts.stores);
    let swift = real("GLANCE_CACHE_TEST_SWIFT_PYTHON", "SWIFT", parts.stores);
    Ok(Programs { ours, before: None, glance, glance31, ironic, keystone, swift })
}

fn sizes(list: &str) -> Result<Vec<usize>> {
    list.split(',').map(str::parse).collect::<Result<_, _>>().context("--sizes takes a list like 1000,10000")
}

fn batches(list: &str) -> Result<[Batch; 2]> {
    let usage = "--images takes two batches, like 20x50,1x4096";
    let list: Vec<Batch> = list.split(',').map(Batch::parse).collect::<Result<_>>().context(usage)?;
    list.try_into().ok().context(usage)
}

fn program(path: &str) -> Result<PathBuf> {
    // The bench runs in the repository, and programs run in other directories.
    let found = std::path::absolute(path).ok().filter(|path| path.is_file());
    found.with_context(|| format!("there is no program {path}"))
}

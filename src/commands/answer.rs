//! `__answer`: the questions that the service asks in a process of its own. It is hidden, and no interface
//! for other programs: its options and its output may change with each release.

// The doc comments of arguments are help texts: no backticks in them.
#![allow(clippy::doc_markdown)]

use anyhow::anyhow;
use clap::{Args, ValueEnum};

use crate::commands::flags::Sources;
use crate::exit::{Exit, Failure};
use crate::host::glance::settings::Selection;
use crate::names::ImageId;
use crate::ops::api;
use crate::run::Run;

/// For serve: answer one question
#[derive(Debug, Args)]
pub(crate) struct AnswerArgs {
    /// The question
    question: ServiceQuestion,
    /// The image that it is about
    image: Option<ImageId>,
    #[command(flatten)]
    sources: Sources,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ServiceQuestion {
    Cached,
    Image,
    Nodes,
    FillLevel,
}

/// Prints the answer.
pub(crate) fn run(run: &Run, args: AnswerArgs) -> Result<Exit, Failure> {
    let selection = Selection { sources: args.sources.0, ..Selection::default() };
    let answer = match (args.question, args.image) {
        (ServiceQuestion::Cached, _) => api::cached(run, selection)?,
        (ServiceQuestion::FillLevel, _) => api::fill_level(run, selection)?,
        (ServiceQuestion::Image, Some(id)) => api::image(run, &selection, id)?,
        (ServiceQuestion::Nodes, Some(id)) => api::nodes(run, &selection, id)?,
        (_, None) => return Err(Failure::usage(anyhow!("this question is about an image"))),
    };
    run.output.print(&answer);
    Ok(if run.output.has_failed() { Exit::Incomplete } else { Exit::Done })
}

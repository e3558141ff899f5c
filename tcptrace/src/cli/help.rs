//! `--help` on one screen: filters and rarely used options are in `tcptrace help COMMAND` and `tcptrace help filters`.

use clap::{Arg, ArgAction, Args as _, Command};

use super::filter::FilterArgs;

/// The topic of the filters: a command that only `help` knows.
const FILTERS: &str = "filters";

/// `cli`, the definition of all commands, with a shorter `--help` and the topic of the filters.
pub fn definition(cli: Command) -> Command {
    let help = Arg::new("help").short('h').long("help").action(ArgAction::HelpShort).help("Print help");
    // Not under the heading of the arguments before it.
    let help = help.help_heading(None);
    let topic = FilterArgs::augment_args(Command::new(FILTERS).hide(true))
        .about("Filters: which sockets a command shows or records")
        .override_usage("tcptrace COMMAND [FILTER]...")
        .after_help("docs/filters.md has the grammar of --filter.");
    cli.mut_subcommands(|command| short(command).disable_help_flag(true).arg(help.clone())).subcommand(topic)
}

/// Leaves the filters out of `--help`, and says where they and the other hidden options are.
fn short(command: Command) -> Command {
    let filters: Vec<_> = FilterArgs::augment_args(Command::new(FILTERS))
        .get_arguments()
        .map(|argument| argument.get_id().clone())
        .collect();
    let has_filters = command.get_arguments().any(|argument| filters.contains(argument.get_id()));
    let name = command.get_name().to_owned();
    let command = command.mut_args(|argument| {
        if filters.contains(argument.get_id()) { argument.hide_short_help(true) } else { argument }
    });
    if !has_filters {
        return command;
    }
    let long = command.get_after_help().map(|text| format!("{text}\n\n")).unwrap_or_default();
    command
        .after_help(format!("All options: tcptrace help {name}. Filters: tcptrace help filters"))
        .after_long_help(long)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// A terminal of 80x24 shows it with the prompt that follows.
    fn fits(command: &mut Command) -> bool {
        let help = command.render_help().to_string();
        help.lines().count() < 24 && help.lines().all(|line| line.chars().count() <= 80)
    }

    #[test]
    fn help_fits_on_a_screen_and_names_the_filters() {
        definition(Cli::command()).debug_assert();
        let mut definition = definition(Cli::command()).term_width(80);
        definition.build();
        for command in definition.get_subcommands_mut() {
            let is_long = ["help", FILTERS].contains(&command.get_name());
            assert!(is_long || fits(command), "{}", command.render_help());
        }
        assert!(fits(&mut definition), "{}", definition.render_help());
        let help = |name: &str| -> String {
            let command = definition.clone().find_subcommand_mut(name).map(Command::render_help);
            command.unwrap_or_default().to_string()
        };
        assert!(!help("top").contains("--lport"));
        assert!(help("top").contains("tcptrace help filters"));
        assert!(help(FILTERS).contains("--lport"));
        assert!(!help("check").contains("help filters"), "it has none");
        let long = definition.clone().find_subcommand_mut("top").map(Command::render_long_help);
        assert!(long.unwrap_or_default().to_string().contains("--lport"));
    }
}

//! The part of a Dockerfile that a template can be. What would be built otherwise than docker does is refused, not guessed.

use thiserror::Error;

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Instruction {
    From(String),
    Run(String),
    Copy {
        from: Vec<String>,
        to: String,
        mode: Option<String>,
    },
    Env(Vec<(String, String)>),
    Workdir(String),
    User(String),
    /// A shell command.
    Command(String),
    /// A shell command.
    Entrypoint(String),
    /// By name: one without an effect here.
    Nothing(String),
}

/// What can't be done, and in which line.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("line {line}: {why}")]
pub(super) struct ParseError {
    line: usize,
    why: String,
}

/// Reads a Dockerfile.
pub(super) fn parse(text: &str) -> Result<Vec<Instruction>, ParseError> {
    let mut instructions = Vec::new();
    let mut froms = 0;
    for (line, text) in logical_lines(text) {
        let at = |why: String| ParseError { line, why };
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        let name = name.to_ascii_uppercase();
        let instruction = read(&name, rest.trim()).map_err(at)?;
        if name == "FROM" {
            froms += 1;
        }
        match (froms, instructions.is_empty()) {
            (0, _) => return Err(at("the first instruction must be FROM".to_owned())),
            (2.., _) => return Err(at("builds in several stages are not supported".to_owned())),
            _ => {}
        }
        instructions.push(instruction);
    }
    if instructions.is_empty() {
        return Err(ParseError {
            line: 1,
            why: "there is no instruction".to_owned(),
        });
    }
    Ok(instructions)
}

/// Joins lines that end in a backslash, and leaves comments out, also those between such lines.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.starts_with('#') || trimmed.is_empty() {
            continue;
        }
        let (part, more) = match line.trim_end().strip_suffix('\\') {
            Some(part) => (part, true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some((_, text)) if goes_on => text.push_str(part),
            _ => lines.push((index + 1, part.trim_start().to_owned())),
        }
        goes_on = more;
    }
    lines
}

fn read(name: &str, rest: &str) -> Result<Instruction, String> {
    if rest.is_empty() {
        return Err(format!("{name} says nothing"));
    }
    if rest.contains("<<") && matches!(name, "RUN" | "COPY") && is_heredoc(rest) {
        return Err(format!("{name} with a here-document is not supported"));
    }
    Ok(match name {
        "FROM" => from(rest)?,
        "RUN" => {
            if rest.starts_with("--") {
                return Err("options of RUN are not supported".to_owned());
            }
            Instruction::Run(command(rest)?)
        }
        "COPY" => copy(rest)?,
        "ENV" => Instruction::Env(env(rest)?),
        "WORKDIR" => Instruction::Workdir(literal(name, rest)?),
        "USER" => {
            let user = literal(name, rest)?;
            Instruction::User(user.split(':').next().unwrap_or_default().to_owned())
        }
        "CMD" => Instruction::Command(command(rest)?),
        "ENTRYPOINT" => Instruction::Entrypoint(command(rest)?),
        "EXPOSE" | "LABEL" | "MAINTAINER" => Instruction::Nothing(name.to_owned()),
        _ => return Err(format!("{name} is not supported")),
    })
}

/// Whether `<<` begins a here-document of the Dockerfile's own: a word follows at once. A shift in a script does not look so.
fn is_heredoc(text: &str) -> bool {
    text.split("<<").skip(1).any(|after| {
        let after = after.trim_start_matches('-').trim_start_matches(['"', '\'']);
        after.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_')
    })
}

fn from(rest: &str) -> Result<Instruction, String> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let image = match words.as_slice() {
        [image] => image,
        [image, word, _] if word.eq_ignore_ascii_case("as") => image,
        _ => return Err("FROM takes an image and nothing more".to_owned()),
    };
    if image.starts_with("--") || *image == "scratch" {
        return Err(format!("FROM {image} is not supported"));
    }
    Ok(Instruction::From(literal("FROM", image)?))
}

/// A value without variables.
fn literal(name: &str, text: &str) -> Result<String, String> {
    let words = words(text)?;
    match words.as_slice() {
        [word] => Ok(word.clone()),
        _ => Err(format!("{name} takes one value")),
    }
}

/// A command in either form, as shell text.
fn command(rest: &str) -> Result<String, String> {
    if rest.starts_with('[')
        && let Ok(words) = serde_json::from_str::<Vec<String>>(rest)
    {
        if words.is_empty() {
            return Err("the command is empty".to_owned());
        }
        return Ok(words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "));
    }
    Ok(rest.to_owned())
}

/// Quotes a word for the shell, if it needs that.
fn quote(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./=:,@%+".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn copy(rest: &str) -> Result<Instruction, String> {
    let mut mode = None;
    let mut rest = rest;
    while rest.starts_with("--") {
        let (option, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        match option.split_once('=') {
            Some(("--chmod", value)) => mode = Some(value.to_owned()),
            _ => return Err(format!("COPY {option} is not supported")),
        }
        rest = after.trim_start();
    }
    let mut paths = if rest.starts_with('[') {
        serde_json::from_str::<Vec<String>>(rest).map_err(|error| format!("COPY: {error}"))?
    } else {
        words(rest)?
    };
    let to = paths.pop().unwrap_or_default();
    if paths.is_empty() {
        return Err("COPY takes a source and a destination".to_owned());
    }
    if paths.len() > 1 && !to.ends_with('/') {
        return Err("COPY of several sources needs a destination that ends in a slash".to_owned());
    }
    for path in &paths {
        if path.contains(['*', '?', '[']) {
            return Err(format!(
                "COPY {path}: patterns are not supported; name files or a directory"
            ));
        }
        if path.split('/').any(|part| part == "..") {
            return Err(format!("COPY {path}: leaves the Dockerfile's directory"));
        }
    }
    Ok(Instruction::Copy { from: paths, to, mode })
}

fn env(rest: &str) -> Result<Vec<(String, String)>, String> {
    let first = rest.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        // The old form: a name, and all the rest.
        let (name, value) = rest.split_once(char::is_whitespace).ok_or("ENV takes NAME=VALUE")?;
        let value = value.trim();
        if value.contains('$') {
            return Err(no_variables(value));
        }
        return Ok(vec![(name.to_owned(), value.to_owned())]);
    }
    words(rest)?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(format!("ENV: {word:?} is not NAME=VALUE")),
        })
        .collect()
}

fn no_variables(text: &str) -> String {
    format!("{text:?}: variables are not expanded here; write out what is meant")
}

/// Cuts text into words as docker does: quotes and backslashes, no variables.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => match letters.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => return Err("a backslash ends the line".to_owned()),
            },
            ('$', None | Some('"')) => return Err(no_variables(text)),
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (letter, Some(mark)) if letter == mark => quote = None,
            (letter, None) if letter.is_whitespace() => words.extend(word.take()),
            (letter, _) => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        return Err("a quote does not end".to_owned());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Result<Instruction, String> {
        let mut all = parse(&format!("FROM x\n{line}")).map_err(|error| error.to_string())?;
        Ok(all.remove(1))
    }

    #[test]
    fn ordinary_files_are_read() {
        let text = "# syntax=x\nFROM python:3.12 AS base\n\nRUN apt-get update && \\\n  # between\n  apt-get install -y git\nENV A=1 B=\"two words\" C=d\\ e\nWORKDIR /app\nCOPY --chmod=755 a b/ /app/\nUSER user:group\nEXPOSE 80\nCMD [\"python\", \"-m\", \"http server\"]\n";
        let all = parse(text).unwrap();
        assert_eq!(all[0], Instruction::From("python:3.12".into()));
        assert_eq!(
            all[1],
            Instruction::Run("apt-get update &&   apt-get install -y git".into())
        );
        let pairs = [("A", "1"), ("B", "two words"), ("C", "d e")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(all[2], Instruction::Env(pairs.to_vec()));
        assert_eq!(
            all[4],
            Instruction::Copy {
                from: vec!["a".into(), "b/".into()],
                to: "/app/".into(),
                mode: Some("755".into())
            }
        );
        assert_eq!(all[5], Instruction::User("user".into()));
        assert_eq!(all[6], Instruction::Nothing("EXPOSE".into()));
        assert_eq!(all[7], Instruction::Command("python -m 'http server'".into()));
    }

    #[test]
    fn what_would_come_out_otherwise_is_refused() {
        for line in [
            "FROM y",
            "ENV PATH=$PATH:/x",
            "ENV A $B",
            "COPY --from=x /a /b",
            "COPY *.py /x/",
            "COPY ../a /x",
            "COPY a b c",
            "COPY a",
            "RUN <<EOF",
            "RUN --mount=type=cache true",
            "ARG X",
            "ADD a b",
            "WORKDIR a b",
            "ENV A=\"x",
            "SHELL [\"x\"]",
            "RUN",
        ] {
            assert!(one(line).is_err(), "{line}");
        }
        assert!(parse("RUN x").is_err() && parse("").is_err() && parse("FROM scratch").is_err());
        assert_eq!(
            one("RUN echo $((1 << 3))").unwrap(),
            Instruction::Run("echo $((1 << 3))".into())
        );
        assert_eq!(
            one("ENV OLD some text").unwrap(),
            Instruction::Env(vec![("OLD".into(), "some text".into())])
        );
    }
}

//! Running a program to its end: kubectl, helm, our own commands.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::error::Error;
use super::process::PROXY_VARIABLES;

/// Runs `program`, gives it `input` to read, and returns what it printed on standard output.
///
/// # Errors
/// If it cannot be run, or ends with an error: then with what it said.
pub async fn run(program: &Path, arguments: &[&str], input: &str) -> Result<String, Error> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let verb = arguments.iter().find(|argument| !argument.starts_with('-')).unwrap_or(&"");
    let what = format!("{name} {verb}");
    let (reader, mut writer) = std::io::pipe().map_err(Error::system("make a pipe"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(reader)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for variable in PROXY_VARIABLES {
        command.env_remove(variable);
    }
    let child = command.spawn().map_err(Error::system(format!("run {}", program.display())))?;
    // Our end of what it reads, so that writing fails once it is gone.
    drop(command);
    let input = input.as_bytes().to_vec();
    // A program that does not read its input is no failure; its end says how it went.
    drop(tokio::task::spawn_blocking(move || writer.write_all(&input)));
    let output = child.wait_with_output().await.map_err(Error::system(what.clone()))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let said = format!("{printed}{}", String::from_utf8_lossy(&output.stderr));
    Err(Error::Program { what, said: said.trim().into() })
}

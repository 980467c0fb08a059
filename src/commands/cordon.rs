//! `cordon`: nothing new goes to a member, and what runs there goes on.

use std::io::Write;

use kube::Client;
use serde_json::json;

use super::standing::{Held, change};
use super::{Error, check_name, say};

/// Cordons the member `name` with the operator's credentials.
///
/// # Errors
/// If the member is unknown or leaves, or the API server refuses.
pub async fn run(client: Client, name: &str, out: &mut dyn Write) -> Result<(), Error> {
    check_name(name)?;
    let changed = change(&client, name, |member| {
        (!member.spec.unschedulable).then(|| json!({ "unschedulable": true }))
    });
    let already = if changed.await? { "" } else { " already" };
    let held = Held::by(&client, name).await?;
    let goes_on = match held.is_empty() {
        true => "nothing of this hub runs there".to_owned(),
        false => format!(
            "{} there go on until they end; kubectl idlewild drain {name} moves them",
            held.words()
        ),
    };
    say(out, &format!("{name} is cordoned{already}: nothing new is placed there; {goes_on}"))
}

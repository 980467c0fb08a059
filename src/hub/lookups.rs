//! What is merely not listed may exist: it is read before anything is ended because of it.

use kube::{Api, ResourceExt};

use super::facts::Answer;
use super::work::{Hand, delay};
use crate::api::{GpuJob, MemberCluster};
use crate::cluster::cache::Key;
use crate::cluster::within;
use crate::engine::model::JobId;

impl Hand {
    /// Finds out whether the member `name` exists.
    pub(super) async fn look_up_member(&self, name: String) {
        let api: Api<MemberCluster> = Api::all(self.client.clone());
        match within("look up member", api.get_opt(&name)).await {
            Ok(found) => self.tell(Answer::MemberExists(name, found.is_some())).await,
            Err(error) => {
                self.tell(Answer::MemberUnknown(name, delay(&error, "look up member"))).await;
            }
        }
    }

    /// Finds out whether the job `id` exists under its name.
    pub(super) async fn look_up_job(&self, (namespace, name): Key, id: JobId) {
        let api: Api<GpuJob> = Api::namespaced(self.client.clone(), &namespace);
        match within("look up job", api.get_opt(&name)).await {
            Ok(found) => {
                let same = found.filter(|job| job.uid().as_deref() == Some(&id.0));
                self.tell(Answer::JobFound(id, same.map(Box::new))).await;
            }
            Err(error) => {
                self.tell(Answer::JobUnknown(id, delay(&error, "look up job"))).await;
            }
        }
    }
}

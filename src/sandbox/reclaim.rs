//! An owner who needs all GPUs of a cluster at once, and gives them back later.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;

use super::accounts::{OWNER, OWNER_NAMESPACE};
use super::error::Error;
use super::member::Member;
use crate::cluster::within;

impl Member {
    /// The owner starts ordinary pods that need every GPU of every node: guests must go. Returns how
    /// many GPUs that takes.
    ///
    /// # Errors
    /// If a pod cannot be created.
    pub async fn take_back(&self) -> Result<u32, Error> {
        let api = self.owners_pods().await?;
        let mut gpus = 0;
        for pool in &self.settings.pools {
            for index in 0..pool.nodes {
                let pod = pod(&format!("training-{}-{index}", pool.name), pool.gpus_per_node);
                within("create pod", api.create(&PostParams::default(), &pod)).await.map_err(
                    Error::cluster(format!("{}: start the owner's pods", self.settings.name)),
                )?;
                gpus += pool.gpus_per_node;
            }
        }
        Ok(gpus)
    }

    /// The owner's pods end.
    ///
    /// # Errors
    /// If they cannot be deleted.
    pub async fn give_back(&self) -> Result<(), Error> {
        let api = self.owners_pods().await?;
        let all = ListParams::default();
        within("delete pods", api.delete_collection(&DeleteParams::default(), &all))
            .await
            .map_err(Error::cluster(format!("{}: end the owner's pods", self.settings.name)))
            .map(drop)
    }

    async fn owners_pods(&self) -> Result<Api<Pod>, Error> {
        Ok(Api::namespaced(self.cluster.client_for(OWNER).await?, OWNER_NAMESPACE))
    }
}

fn pod(name: &str, gpus: u32) -> Pod {
    let resources = json!({ "nvidia.com/gpu": gpus.to_string(), "cpu": "1", "memory": "1Gi" });
    serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "training", "image": "registry.example.org/training:1",
                "resources": { "requests": resources, "limits": resources },
            }],
        },
    }))
    .expect("the literal above is a Pod")
}

//! What happens when one of the tasks of the executor ends.

use super::*;

#[tokio::test]
async fn a_watch_that_panics_ends_the_executor() {
    let watch = async |fails: bool| {
        assert!(!fails, "absurd");
        std::future::pending::<()>().await;
    };
    let tasks: JoinSet<()> = [false, true].into_iter().map(watch).collect();
    let (sender, events) = mpsc::channel(1);
    let nobody = tower::service_fn(async |_: http::Request<kube::client::Body>| {
        Err::<http::Response<kube::client::Body>, tower::BoxError>("nobody".into())
    });
    let client = Client::new(nobody, "default");
    let process = crate::metrics::Process::new("agent");
    let figures = Figures::new(crate::metrics::Executor::new(&process.registry), process.common);
    let settings = Settings {
        namespace: "a".into(),
        guest_namespace: "b".into(),
        sandbox: false,
        clock: crate::cluster::Clock::default(),
    };
    let writer = Writer::new(client, &settings);
    let hands = Hands { writer, sender, figures };
    let error = serve(&settings, &Health::default(), hands, (tasks, events)).await;
    assert!(error.to_string().contains("panicked"), "{error}");
}

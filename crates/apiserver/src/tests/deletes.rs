//! Deletes: at once, with grace, with finalizers, with preconditions, in bulk.

use super::*;

const CM: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(start_paused = true)]
async fn plain_objects() {
    let f = Fixture::new().await;
    f.check_http(
        &format!(
            r#"POST {CM}
            {{"metadata":{{"name":"a"}}}}

            DELETE {CM}/a?dryRun=All

            DELETE {CM}/a
            {{"preconditions":{{"uid":"wrong"}}}}

            DELETE {CM}/a
            {{"preconditions":{{"resourceVersion":"2"}}}}

            DELETE {CM}/a

            DELETE {CM}/a?propagationPolicy=Nonsense"#
        ),
        expect![[r#"
            201 ConfigMap a@2
            200 Success {"kind":"configmaps","name":"a","uid":"dac94832-5ac1-4f6d-9325-64371735f32c"}
            409 Conflict: Operation cannot be fulfilled on ConfigMap "a": the UID in the precondition (wrong) does not match the UID in record (dac94832-5ac1-4f6d-9325-64371735f32c). The object might have been deleted and then recreated
            200 Success {"kind":"configmaps","name":"a","uid":"dac94832-5ac1-4f6d-9325-64371735f32c"}
            404 NotFound: configmaps "a" not found
            422 Invalid: DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "Nonsense": supported values: "Foreground", "Background", "Orphan", "nil"
        "#]],
    )
    .await;
}

/// A store on which somebody else removes a key just before we do.
struct Raced(MemoryStore);

#[async_trait::async_trait]
impl store::Store for Raced {
    async fn get(
        &self,
        key: &store::Key,
        at: store::At,
    ) -> Result<store::Read<Option<Arc<store::Entry>>>, store::StoreError> {
        self.0.get(key, at).await
    }
    async fn list(
        &self,
        range: &store::Range,
        at: store::At,
        page: store::Page,
    ) -> Result<store::Read<store::Listing>, store::StoreError> {
        self.0.list(range, at, page).await
    }
    async fn commit(
        &self,
        txn: store::Txn,
    ) -> Result<(store::Revision, Vec<Option<Arc<store::Entry>>>), store::StoreError> {
        if matches!(txn.ops.as_slice(), [store::Op::Delete { .. }]) {
            self.0.commit(txn.clone()).await?;
        }
        self.0.commit(txn).await
    }
    async fn watch(
        &self,
        range: &store::Range,
        after: store::Revision,
    ) -> Result<Box<dyn store::WatchStream>, store::StoreError> {
        self.0.watch(range, after).await
    }
    async fn compact(&self, before: store::Revision) -> Result<(), store::StoreError> {
        self.0.compact(before).await
    }
    fn revision(&self) -> store::Revision {
        self.0.revision()
    }
}

/// The node agent sees the mark of a delete without grace and may be faster with its own.
#[tokio::test(start_paused = true)]
async fn what_another_removed_after_our_mark_is_deleted_and_not_absent() {
    const PODS: &str = "/api/v1/namespaces/default/pods";
    let f = Fixture::over(Arc::new(Raced(MemoryStore::new(store::Limits::default())))).await;
    f.check_http(
        &format!(
            r#"POST {PODS}
            {{"metadata":{{"name":"p"}},"spec":{{"nodeName":"n","containers":[{{"name":"c","image":"i"}}]}}}}

            DELETE {PODS}/p?gracePeriodSeconds=0

            DELETE {PODS}/p?gracePeriodSeconds=0"#
        ),
        expect![[r#"
            201 Pod p@2
            200 Pod p@3 deletionTimestamp="2026-01-01T00:00:00Z" deletionGracePeriodSeconds=0
            404 NotFound: pods "p" not found
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn finalizers_hold_until_the_last_is_gone() {
    let f = Fixture::new().await;
    f.check_http(
        &format!(
            r#"POST {CM}
            {{"metadata":{{"name":"a","finalizers":["x/y"]}}}}

            DELETE {CM}/a

            DELETE {CM}/a

            POST {CM}
            {{"metadata":{{"name":"a"}}}}

            PATCH {CM}/a | content-type: application/merge-patch+json
            {{"metadata":{{"finalizers":["x/y","z/w"]}}}}

            PATCH {CM}/a | content-type: application/merge-patch+json
            {{"metadata":{{"finalizers":null}}}}

            GET {CM}/a"#
        ),
        expect![[r#"
            201 ConfigMap a@2 finalizers=["x/y"]
            200 ConfigMap a@3 finalizers=["x/y"] deletionTimestamp="2026-01-01T00:00:00Z" deletionGracePeriodSeconds=0
            200 ConfigMap a@3 finalizers=["x/y"] deletionTimestamp="2026-01-01T00:00:00Z" deletionGracePeriodSeconds=0
            409 AlreadyExists: object is being deleted: configmaps "a" already exists
            422 Invalid: ConfigMap "a" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"z/w"}
            200 ConfigMap a@4 deletionTimestamp="2026-01-01T00:00:00Z" deletionGracePeriodSeconds=0
            404 NotFound: configmaps "a" not found
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn pods_get_time_and_watchers_see_every_step() {
    let f = Fixture::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    let mut watch = f.send(&format!("GET {pods}?watch=1&resourceVersion=1")).await.into_body();
    f.check_http(
        &format!(
            r#"POST {pods}
            {{"metadata":{{"name":"p"}},"spec":{{"nodeName":"n","terminationGracePeriodSeconds":30,"containers":[{{"name":"c","image":"i"}}]}}}}

            DELETE {pods}/p

            DELETE {pods}/p

            DELETE {pods}/p?gracePeriodSeconds=0"#
        ),
        expect![[r#"
            201 Pod p@2
            200 Pod p@3 deletionTimestamp="2026-01-01T00:00:30Z" deletionGracePeriodSeconds=30
            200 Pod p@3 deletionTimestamp="2026-01-01T00:00:30Z" deletionGracePeriodSeconds=30
            200 Pod p@5 deletionTimestamp="2026-01-01T00:00:00Z" deletionGracePeriodSeconds=0
        "#]],
    )
    .await;
    expect![[r#"
        ADDED Pod p@2
        MODIFIED Pod p@3 deletionTimestamp="2026-01-01T00:00:30Z" deletionGracePeriodSeconds=30
        MODIFIED Pod p@4 deletionTimestamp="2026-01-01T00:00:00Z" deletionGracePeriodSeconds=0
        DELETED Pod p@5 deletionTimestamp="2026-01-01T00:00:00Z" deletionGracePeriodSeconds=0
    "#]]
    .assert_eq(&events(&mut watch, 4).await);
}

#[tokio::test(start_paused = true)]
async fn namespaces_terminate_first() {
    let f = Fixture::new().await;
    f.check_http(
        r#"POST /api/v1/namespaces
            {"metadata":{"name":"x"}}

            DELETE /api/v1/namespaces/x

            POST /api/v1/namespaces/x/configmaps
            {"metadata":{"name":"a"}}

            DELETE /api/v1/namespaces/default

            PUT /api/v1/namespaces/x/finalize
            {"metadata":{"name":"x"},"spec":{"finalizers":[]}}

            GET /api/v1/namespaces/x"#,
        expect![[r#"
            201 Namespace x@2 labels={"kubernetes.io/metadata.name":"x"} spec={"finalizers":["kubernetes"]}
            200 Namespace x@3 labels={"kubernetes.io/metadata.name":"x"} deletionTimestamp="2026-01-01T00:00:00Z" spec={"finalizers":["kubernetes"]}
            403 Forbidden: configmaps "a" is forbidden: unable to create new content in namespace x because it is being terminated
            403 Forbidden: namespaces "default" is forbidden: this namespace may not be deleted
            200 Namespace x@4 labels={"kubernetes.io/metadata.name":"x"} deletionTimestamp="2026-01-01T00:00:00Z" spec={}
            404 NotFound: namespaces "x" not found
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn collections() {
    let f = Fixture::new().await;
    f.check_http(
        &format!(
            r#"POST {CM}
            {{"metadata":{{"name":"a","labels":{{"x":"1"}}}}}}

            POST {CM}
            {{"metadata":{{"name":"b","labels":{{"x":"2"}}}}}}

            POST {CM}
            {{"metadata":{{"name":"c","labels":{{"x":"1"}}}}}}

            POST {CM}
            {{"metadata":{{"name":"d","labels":{{"x":"1"}}}}}}

            DELETE {CM}?labelSelector=x%3D1&limit=2

            GET {CM}"#
        ),
        expect![[r#"
            201 ConfigMap a@2 labels={"x":"1"}
            201 ConfigMap b@3 labels={"x":"2"}
            201 ConfigMap c@4 labels={"x":"1"}
            201 ConfigMap d@5 labels={"x":"1"}
            200 ConfigMapList@5 [a c]
            200 ConfigMapList@7 [b d]
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_name_used_again_is_another_object() {
    let f = Fixture::new().await;
    let make = format!("POST {CM}\n{{\"metadata\":{{\"name\":\"a\"}}}}");
    let first = f.json(&make).await;
    f.ask(&format!("DELETE {CM}/a")).await;
    let second = f.json(&make).await;
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
}

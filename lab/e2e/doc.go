// Package e2e tests Whalepod as its users meet it: real Docker Engines, real
// iptables, and kubectl as others built it, on a lab of three nodes.
//
// Each test is named after what a user sees. All of them share one lab, which is
// made before the first and taken down after the last, also when a test hangs or
// panics: the tests run in a child of the process that owns the lab. Tests that
// use port 30080 or change a node run one after the other; each leaves the cluster
// as it found it. After them come those that say t.Parallel: their pods stay on nodes
// that they name, and what breaks the third node's engine has that node for itself.
//
// Everything is behind the build tag e2e, and needs root:
//
//	make test-e2e
//	go test -tags e2e -count=1 -v -run WordPress ./lab/e2e   (after make build)
//
// Variables for who writes tests: WP_E2E_LAB=DIR uses the lab in this directory,
// brings it up if it is not, and leaves it running. WP_E2E_PREFIX sets the prefix
// of its namespaces, so that two may run at a time.
//
// What people type after reading the articles, and where it is tested ("every" is kubectl of today and of 2020; session_test.go
// says how transcripts are written):
//
//	apply on what create made; a bare Pod    TestObjectsAreChanged, TestOldManifests, TestApplyInEveryForm, TestWordPressChangesItsImage
//	replace --force -f, and the flag last    TestObjectsAreChanged, TestPatchesLabelsAndReplaces
//	expose deployment|pod|rc|service         TestKubectlLab, TestScaleAndExposeEveryKind, TestCreateHelpers
//	scale, both places of the flag           TestKubectlLab, TestScaleAndDelete, TestScaleAndExposeEveryKind
//	autoscale, top                           TestAutoscaleCommand, TestAutoscaling, TestTop
//	get in every form, its columns           TestKubectlLab, TestGetInEveryForm, TestGetSortsAndPages, TestOldManifests
//	get all; two kinds; categories           TestKubectlLab
//	get nodes, cluster-info, discovery       TestKubectlLab, TestDiscovery, TestGetSortsAndPages
//	describe pod, its events                 TestWordPressAndMySQLInOnePod, TestDeleteAndWait, TestProbeStory
//	delete, every cascade, force, now        TestScaleAndDelete, TestDeleteAndWait, TestTwoReplicasOnTwoNodes
//	create of every kind, run                TestCreateHelpers, TestCreateOfEveryKind, TestRunOptions, TestRunAndAttach
//	set, rollout                             TestRolloutCommands, TestSetAndRolloutOfEveryKind, TestRedisKeepsItsNames, TestDaemonSetIsUpdatedOneByOne
//	apply --prune, --server-side, -k, diff   TestApplyInEveryForm, TestServerSideApply
//	patch, label, annotate, edit             TestObjectsAreChanged, TestPatchesLabelsAndReplaces
//	wait, events                             TestDeleteAndWait, TestEventsCommand
//	taint, cordon, drain                     TestTaintAndCordon, TestDrain, TestDaemonSetFollowsLabels
//	extensions/v1beta1, batch/v1beta1, ...   TestOldManifests, TestTwoReplicasOnTwoNodes, TestCronJobOfOldPosts
//	kube-dns's own manifest                  TestOldManifests
//	a rollback uses the old ReplicaSet       TestRolloutCommands, TestWordPressChangesItsImage
//	counts of events are folded              TestProbeStory
//	scaling by load; healing                 TestAutoscaling, TestPowerCut, TestProbeStory
//	no downtime, partial release, roll back  TestNoRequestIsLost, TestWordPressIsUpdatedAndRolledBack, TestRedisKeepsItsNames
//	a NodePort on every local address         TestHttpdAnswersOnEveryAddress, TestPodsReachEachOther, TestServices
//	EXTERNAL-IP; source ranges, own address  TestKubectlLab, TestLoadBalancers
//	Services of every other kind, hairpins   TestServices, TestTheLastEndpointServesAsItEnds, TestHostPorts, TestDatagramsFollowThePod
//	names of every kind, stub domains        TestNames; without a master TestRebootWithoutMaster
//	sidecars, one image in four roles, cron  TestWordPressAndMySQLInOnePod, TestOneImageFourRoles, TestBackupCronJob
package e2e

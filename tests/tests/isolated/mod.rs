//! The tests of a file again, with plugins in processes of their own.

#[test]
#[ignore = "is the process of a plugin, started by tests"]
fn plugin_process() {
    membrane_tests::isolation::serve();
}

#[test]
fn all_of_this_holds_in_processes_of_their_own() {
    membrane_tests::isolation::again();
}

BATCH_TEST_PASSWORD = "A-Pass-word-9-of-tests"

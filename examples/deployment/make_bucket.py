"""Make a bucket in the store that MLflow's variables name, unless it is there."""

import os
import sys

import boto3


def main(name: str) -> None:
    store = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    if name not in {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}:
        store.create_bucket(Bucket=name)


if __name__ == "__main__":
    main(sys.argv[1])

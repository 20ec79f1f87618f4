package main

import (
	"github.com/millrace-ml/millrace/pipelines/cli"

	_ "github.com/millrace-ml/millrace/models/calibration"
	_ "github.com/millrace-ml/millrace/models/ensemble"
	_ "github.com/millrace-ml/millrace/models/forest"
	_ "github.com/millrace-ml/millrace/models/gbdt"
	_ "github.com/millrace-ml/millrace/models/linear"
	_ "github.com/millrace-ml/millrace/models/mlp"
	_ "github.com/millrace-ml/millrace/transforms/connect/blob"
	_ "github.com/millrace-ml/millrace/transforms/connect/file"
	_ "github.com/millrace-ml/millrace/transforms/connect/intake"
	_ "github.com/millrace-ml/millrace/transforms/connect/kafka"
	_ "github.com/millrace-ml/millrace/transforms/connect/kinesis"
	_ "github.com/millrace-ml/millrace/transforms/connect/pubsub"
	_ "github.com/millrace-ml/millrace/transforms/connect/redis"
	_ "github.com/millrace-ml/millrace/transforms/connect/simulate"
	_ "github.com/millrace-ml/millrace/transforms/connect/stdio"
	_ "github.com/millrace-ml/millrace/transforms/connect/webhook"
)

func main() { cli.Main() }

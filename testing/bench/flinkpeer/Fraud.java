package bench;

import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.Arrays;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.functions.RichMapFunction;
import org.apache.flink.api.common.serialization.AbstractDeserializationSchema;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;

/**
 * The peer of the bench on Flink: the fraud job as a DataStream program, from topic to topic.
 *
 * <p>It does the work of the scoring graph: JSON is decoded, the handbook's fourteen windowed features and the amount
 * are computed on arrival from keyed state, first by customer and then by terminal, the network of the same model files
 * scores, JSON lines go out at least once. It is written to be fast: no Kryo, objects are reused, a key's windows are
 * one object of running sums which the heap backend never serialises but for a checkpoint, and buffers are flushed
 * every 10 ms in place of Flink's 100.
 *
 * <p>Arguments: brokers, topic of events, topic of scores, folder of the model's files, parallelism, milliseconds
 * between two checkpoints.
 */
public final class Fraud {
  static final long DAY = 86_400;
  static final int INPUTS = 15;

  /** A payment, as it is read and with its features. Flink takes it for a POJO. */
  public static class Payment {
    @JsonProperty("TRANSACTION_ID") public long id;
    @JsonProperty("TX_DATETIME") public String time;
    @JsonProperty("CUSTOMER_ID") public long customer;
    @JsonProperty("TERMINAL_ID") public long terminal;
    @JsonProperty("TX_AMOUNT") public double amount;
    @JsonProperty("TX_FRAUD") public boolean fraud;
    public long seconds; // time, since 1970
    public float[] x;
  }

  /** What is written. */
  public static class Scored {
    public long id;
    public String time;
    public String model = "fraud@1";
    public float score;
  }

  /** Reads a payment, and computes the features that need no state. */
  public static final class Decode extends AbstractDeserializationSchema<Payment> {
    private transient ObjectReader reader;

    @Override
    public void open(InitializationContext c) {
      reader = new ObjectMapper().readerFor(Payment.class);
    }

    @Override
    public Payment deserialize(byte[] line) throws IOException {
      Payment p = reader.readValue(line);
      p.seconds = Instant.parse(p.time).getEpochSecond();
      long weekday = Math.floorMod(Math.floorDiv(p.seconds, DAY) + 4, 7L); // 0: Sunday
      p.x = new float[INPUTS];
      p.x[0] = (float) p.amount;
      p.x[1] = weekday == 0 || weekday == 6 ? 1 : 0;
      p.x[2] = Math.floorMod(p.seconds, DAY) / 3600 <= 6 ? 1 : 0;
      return p;
    }
  }

  /** Writes a score. */
  public static final class Encode implements SerializationSchema<Scored> {
    private transient ObjectWriter writer;

    @Override
    public void open(InitializationContext c) {
      writer = new ObjectMapper().writerFor(Scored.class);
    }

    @Override
    public byte[] serialize(Scored s) {
      try {
        return writer.writeValueAsBytes(s);
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }
  }

  /**
   * The payments of a customer or a terminal in the order in which they came, and the edges of its windows among them:
   * window w lies between edge w and edge 3. An edge only moves on.
   */
  public static class History {
    public long[] at = new long[16]; // seconds
    public long[] value = new long[16];
    public int size;
    public int[] edge = new int[4];
    public long[] before = new long[4]; // sum of the values before each edge

    void add(long seconds, long v) {
      if (size == at.length) {
        makeRoom();
      }
      at[size] = seconds;
      value[size++] = v;
    }

    /** Forgets what lies before the longest window, or takes twice the room if that is little. */
    private void makeRoom() {
      int old = edge[2];
      if (2 * old < size) {
        at = Arrays.copyOf(at, 2 * size);
        value = Arrays.copyOf(value, 2 * size);
        return;
      }
      size -= old;
      System.arraycopy(at, old, at, 0, size);
      System.arraycopy(value, old, value, 0, size);
      for (int e = 0; e < edge.length; e++) {
        edge[e] -= old;
      }
    }

    void move(int e, long limit) {
      while (edge[e] < size && at[edge[e]] <= limit) {
        before[e] += value[edge[e]++];
      }
    }

    int count(int window) {
      return edge[3] - edge[window];
    }

    long sum(int window) {
      return before[3] - before[window];
    }
  }

  /** The windowed features of one entity, counts and means in turn, from input `from` on. */
  public abstract static class Windows extends KeyedProcessFunction<Long, Payment, Payment> {
    private final int from;
    private final long delay; // of what the windows see
    private transient ValueState<History> state;

    Windows(int from, long delay) {
      this.from = from;
      this.delay = delay;
    }

    abstract long valueOf(Payment p);

    abstract double mean(long sum, int count);

    @Override
    public void open(OpenContext c) {
      state = getRuntimeContext().getState(new ValueStateDescriptor<>("history", Types.POJO(History.class)));
    }

    @Override
    public void processElement(Payment p, Context c, Collector<Payment> out) throws IOException {
      History h = state.value();
      if (h == null) {
        h = new History();
      }
      h.add(p.seconds, valueOf(p));
      long until = p.seconds - delay;
      h.move(3, until);
      h.move(0, until - DAY);
      h.move(1, until - 7 * DAY);
      h.move(2, until - 30 * DAY);
      for (int w = 0; w < 3; w++) {
        int n = h.count(w);
        p.x[from + w] = n;
        p.x[from + 3 + w] = n == 0 ? 0 : (float) mean(h.sum(w), n);
      }
      state.update(h);
      out.collect(p);
    }
  }

  /** How often and for how much a customer pays. */
  public static final class Customer extends Windows {
    Customer() {
      super(3, 0);
    }

    @Override
    long valueOf(Payment p) {
      return Math.round(p.amount * 100);
    }

    @Override
    double mean(long cents, int n) {
      return cents / 100.0 / n;
    }
  }

  /** How often a terminal is used, and for how much fraud, as known a week later. */
  public static final class Terminal extends Windows {
    Terminal() {
      super(9, 7 * DAY);
    }

    @Override
    long valueOf(Payment p) {
      return p.fraud ? 1 : 0;
    }

    @Override
    double mean(long frauds, int n) {
      return (double) frauds / n;
    }
  }

  /** A dense network with ReLU between its layers, of standardised inputs, from the files of a model. */
  static final class Network {
    private final float[] mean = new float[INPUTS];
    private final float[] rest = new float[INPUTS]; // what a float leaves of the mean
    private final float[] inverse = new float[INPUTS];
    private final float[][] weights; // of each layer, inputs by outputs
    private final float[][] biases;
    private final float[][] units; // what each layer gives, the inputs first

    Network(File dir) throws IOException {
      ObjectMapper json = new ObjectMapper();
      JsonNode features = json.readTree(new File(dir, "encoder.json")).get("features");
      if (features.size() != INPUTS) {
        throw new IOException("the model has " + features.size() + " inputs, not " + INPUTS);
      }
      for (int i = 0; i < INPUTS; i++) {
        double m = features.get(i).path("mean").asDouble();
        mean[i] = (float) m;
        rest[i] = (float) (m - mean[i]);
        inverse[i] = (float) (1 / features.get(i).get("std").asDouble());
      }
      ByteBuffer file = ByteBuffer.wrap(Files.readAllBytes(Path.of(dir.getPath(), "weights.safetensors"))).order(ByteOrder.LITTLE_ENDIAN);
      int header = (int) file.getLong();
      JsonNode tensors = json.readTree(new String(file.array(), 8, header, StandardCharsets.UTF_8));
      int layers = 0;
      while (tensors.has("layer" + layers + ".bias")) {
        layers++;
      }
      weights = new float[layers][];
      biases = new float[layers][];
      units = new float[layers + 1][];
      units[0] = new float[INPUTS];
      for (int l = 0; l < layers; l++) {
        weights[l] = floats(file, 8 + header, tensors.get("layer" + l + ".weight"));
        biases[l] = floats(file, 8 + header, tensors.get("layer" + l + ".bias"));
        units[l + 1] = new float[biases[l].length];
      }
    }

    private static float[] floats(ByteBuffer file, int data, JsonNode tensor) {
      int begin = tensor.get("data_offsets").get(0).asInt();
      float[] all = new float[(tensor.get("data_offsets").get(1).asInt() - begin) / 4];
      file.slice(data + begin, 4 * all.length).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(all);
      return all;
    }

    float score(float[] x) {
      for (int i = 0; i < INPUTS; i++) {
        units[0][i] = (x[i] - mean[i] - rest[i]) * inverse[i];
      }
      for (int l = 0; l < weights.length; l++) {
        layer(units[l], weights[l], biases[l], units[l + 1], l > 0);
      }
      return (float) (1 / (1 + Math.exp(-units[weights.length][0])));
    }

    /** Goes over the inputs outside and the units inside, which the JIT turns into vector instructions. */
    private static void layer(float[] in, float[] w, float[] bias, float[] out, boolean relu) {
      int n = out.length;
      System.arraycopy(bias, 0, out, 0, n);
      for (int i = 0; i < in.length; i++) {
        float v = in[i];
        if (relu && v <= 0) {
          continue;
        }
        int row = i * n;
        for (int k = 0; k < n; k++) {
          out[k] += v * w[row + k];
        }
      }
    }
  }

  /** Scores payments. */
  public static final class Score extends RichMapFunction<Payment, Scored> {
    private final String dir;
    private transient Network network;

    Score(String dir) {
      this.dir = dir;
    }

    @Override
    public void open(OpenContext c) throws IOException {
      network = new Network(new File(dir));
    }

    @Override
    public Scored map(Payment p) {
      Scored s = new Scored();
      s.id = p.id;
      s.time = p.time;
      s.score = network.score(p.x);
      return s;
    }
  }

  public static void main(String[] args) throws Exception {
    String brokers = args[0], in = args[1], out = args[2], model = args[3];
    StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment();
    env.setParallelism(Integer.parseInt(args[4]));
    env.enableCheckpointing(Long.parseLong(args[5]));
    env.getCheckpointConfig().setMinPauseBetweenCheckpoints(500);
    env.getConfig().enableObjectReuse();
    env.setBufferTimeout(10);
    KafkaSource<Payment> source = KafkaSource.<Payment>builder()
        .setBootstrapServers(brokers).setTopics(in).setGroupId("peer")
        .setStartingOffsets(OffsetsInitializer.earliest()).setValueOnlyDeserializer(new Decode()).build();
    KafkaSink<Scored> sink = KafkaSink.<Scored>builder()
        .setBootstrapServers(brokers).setDeliveryGuarantee(DeliveryGuarantee.AT_LEAST_ONCE)
        .setRecordSerializer(KafkaRecordSerializationSchema.<Scored>builder().setTopic(out).setValueSerializationSchema(new Encode()).build())
        .setProperty("compression.type", "snappy").setProperty("linger.ms", "3").setProperty("batch.size", "262144").build();
    env.fromSource(source, WatermarkStrategy.noWatermarks(), "payments")
        .keyBy(p -> p.customer, Types.LONG).process(new Customer()).name("customer").returns(Payment.class)
        .keyBy(p -> p.terminal, Types.LONG).process(new Terminal()).name("terminal").returns(Payment.class)
        .map(new Score(model)).name("score").sinkTo(sink);
    env.execute("peer");
  }
}

package waybill.billing;

import javax.crypto.Cipher;
import java.security.MessageDigest;
import org.slf4j.Logger;

public class PaymentGateway {
    private final Logger log = Loggers.of(PaymentGateway.class);
    private static final String gatewayApiKey = "example-gateway-key-77";

    String sign(String body) throws Exception {
        byte[] mac = MessageDigest.getInstance("MD5").digest((body + gatewayApiKey).getBytes());
        return Hex.of(mac);
    }

    byte[] wrap(byte[] body, java.security.Key key) throws Exception {
        Cipher c = Cipher.getInstance("AES");
        c.init(Cipher.ENCRYPT_MODE, key);
        return c.doFinal(body);
    }

    void callback(String token) {
        log.error("gateway refused " + token);
    }
}

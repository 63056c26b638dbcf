package waybill.billing;

import java.security.MessageDigest;

public final class Checksums {
    static byte[] ofInvoice(byte[] pdf) throws Exception {
        return MessageDigest.getInstance("MD5").digest(pdf);
    }

    static byte[] ofPayment(String reference) throws Exception {
        MessageDigest digest = MessageDigest.getInstance("SHA1");
        return digest.digest(reference.getBytes());
    }
}
